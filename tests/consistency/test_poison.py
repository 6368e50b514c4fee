"""Messages that no receiver can read, beside others on the same way."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, insert

from outbox import tables
from tests.support.blog.agreement import audited, waiting
from tests.support.blog.blog import START, new_id
from tests.support.blog.deleting import Deletions, start_all
from tests.support.databases.databases import Database, configured
from tests.support.orchestrator.saga_writers import rows
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(900)
_POISON = {
    "wrong data": ("comments", "articles.article-published.v1", '{"nonsense": true}'),
    "no JSON": ("comments", "articles.article-published.v1", '{"article_id": '),
    "wrong start": ("orchestrator", "sagabox.start-saga.v1", '{"nonsense": true}'),
}


def poison(database: Database, *, each: int) -> set[str]:
    """So many messages of every kind into the outbox, in all buckets; their ids."""
    engine = configured(create_engine(database.sync_url))
    made = [
        {
            "id": new_id(),
            "destination": destination,
            "bucket": number % 16,
            "aggregatetype": "articles",
            "aggregateid": f"poison {number}",
            "type": type_,
            "payload": payload,
            "headers": "{}",
            "occurred_at": START,
        }
        for destination, type_, payload in _POISON.values()
        for number in range(each)
    ]
    with engine.begin() as connection:
        connection.execute(insert(tables.outbox), made)
    engine.dispose()
    return {str(it["id"]) for it in made}


async def test_poison_is_buried_and_deletions_beside_it_end_rightly(blog: RunningBlog) -> None:
    await start_all(blog)
    deletions = Deletions(blog)
    await deletions.prepare(8)
    bad = poison(blog.databases["articles"], each=20)
    await deletions.ask()
    await deletions.assert_ended_rightly()
    beside = Deletions(blog)
    await beside.prepare(4)
    await beside.ask()
    await beside.assert_ended_rightly()

    def buried() -> bool:
        found = rows(blog.databases["articles"], "SELECT id FROM outbox_dead")
        return {str(it[0]).replace("-", "") for it in found} == {it.replace("-", "") for it in bad}

    await until(buried, deadline=60, what="all that is poison is buried, and nothing else")
    await until(lambda: not waiting(blog.databases), deadline=30, what="nothing waits")
    found = await audited(blog.databases)
    assert found.code == 0, found.told
