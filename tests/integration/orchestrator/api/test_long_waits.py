"""A service of the blog and the orchestrator, of which many runs wait for long: what the service
remembers of those that have ended is purged all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import insert, select

from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import delete_article
from orchestrator.store.sharding import SHARDS
from outbox import tables
from outbox.clock import SystemClock
from outbox.database.opening import open_database
from outbox.ids import compose, derive
from outbox.wire.settled import MAX_LIVE
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.blog.whole_blog import WholeBlog, whole_blog
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import begun, orchestrator_schema, put
from tests.support.processes.waiting import until

LONG_AGO = SystemClock().now() - timedelta(days=50)
RUNS = [compose(int(LONG_AGO.timestamp() * 1000), number) for number in range(MAX_LIVE + 20)]
WAITING, ENDED = RUNS[: MAX_LIVE + 10], RUNS[MAX_LIVE + 10 :]


@pytest.fixture
async def blog(database_factory: DatabaseFactory) -> AsyncIterator[WholeBlog]:
    databases = {
        "articles": database_factory(articles_schema),
        "comments": database_factory(comments_schema),
        "orchestrator": database_factory(orchestrator_schema),
    }
    orchestrator = open_database(databases["orchestrator"].url, name="test")
    for run in WAITING:
        await put(orchestrator, begun(id=run))
    for run in ENDED:
        ended = {"status": Status.COMPENSATED.value, "ended_at": LONG_AGO}
        await put(orchestrator, begun(id=run), **ended)
    await orchestrator.engine.dispose()
    async with whole_blog(databases, [delete_article]) as blog:
        yield blog


async def remembered(blog: WholeBlog) -> set[str]:
    """The old runs of which articles has rows."""
    async with blog.services["articles"].chassis.database.sessions() as session:
        found = await session.scalars(select(tables.inbox.c.saga))
        return {run for run in found if run in RUNS}


async def remember(blog: WholeBlog, runs: list[str]) -> None:
    """Articles got a command of each of them, long ago."""
    row = {
        "consumer": "articles",
        "source": "orchestrator",
        "state": "ran",
        "received_at": LONG_AGO,
    }
    rows = [row | {"id": derive(run, "command"), "saga": run} for run in runs]
    async with blog.services["articles"].chassis.database.sessions.begin() as session:
        await session.execute(insert(tables.inbox), rows)


async def test_services_purge_what_ended_behind_many_runs_that_wait(blog: WholeBlog) -> None:
    await remember(blog, [*WAITING[:3], *WAITING[-3:], *ENDED])
    article = await blog.publish()
    await blog.start(article, prefer="wait=20")  # a delivery, which tells what it can
    inbox = blog.services["articles"].chassis.service.inbox
    await inbox.purge()
    assert await remembered(blog) >= set(ENDED), "no delivery can name that many"

    async def purged() -> bool:
        # Otherwise the answer leaves when the couriers look at the whole table, twice a minute.
        blog.engine._node.dispatcher.distrust(SHARDS)
        await inbox.purge()
        return not await remembered(blog) & set(ENDED)

    await until(purged, deadline=20, what="what has ended is forgotten")
    assert await remembered(blog) == {*WAITING[:3], *WAITING[-3:]}
    assert inbox.stopped == {}
