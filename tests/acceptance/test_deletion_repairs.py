"""A compensation fails, for a while or for ever: it is done in the end, or a person repairs it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest

from tests.acceptance.test_deletion_faults import intervene, step
from tests.support.blog.deleting import Deletions, Kept, commented, kept, start_all, until_published
from tests.support.databases.databases import Database, Kind
from tests.support.orchestrator.saga_writers import assert_histories_are_whole, execute, rows
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(400)

_SPOILED = {
    # Once a saga has closed the thread, it counts as deleted: it cannot be reopened.
    Kind.SQLITE: (
        "CREATE TRIGGER spoil AFTER UPDATE ON threads "
        "WHEN OLD.closed_by IS NULL AND NEW.closed_by IS NOT NULL BEGIN "
        "UPDATE threads SET known = 'deleted' WHERE article_id = NEW.article_id; END",
    ),
    Kind.POSTGRESQL: (
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.known := 'deleted'; RETURN NEW; END $$",
        "CREATE TRIGGER spoil BEFORE UPDATE ON threads FOR EACH ROW "
        "WHEN (OLD.closed_by IS NULL AND NEW.closed_by IS NOT NULL) EXECUTE FUNCTION spoil()",
    ),
}
_BROKEN = {
    Kind.SQLITE: (
        "CREATE TRIGGER break BEFORE UPDATE ON threads "
        "WHEN OLD.closed_by IS NOT NULL AND NEW.closed_by IS NULL BEGIN "
        "SELECT RAISE(ABORT, 'out of order'); END",
    ),
    Kind.POSTGRESQL: (
        "CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'out of order'; END $$",
        "CREATE TRIGGER break BEFORE UPDATE ON threads FOR EACH ROW "
        "WHEN (OLD.closed_by IS NOT NULL AND NEW.closed_by IS NULL) EXECUTE FUNCTION break()",
    ),
}


def spoil_threads(database: Database) -> None:
    """Let no thread that a saga closes from now on be reopened."""
    execute(database, *_SPOILED[database.kind])


def drop_trigger(database: Database, name: str) -> None:
    on = " ON threads" if database.kind is Kind.POSTGRESQL else ""
    execute(database, f"DROP TRIGGER {name}{on}")


async def test_p4_a_compensation_that_fails_for_a_while_is_done_in_the_end(
    blog: RunningBlog,
) -> None:
    """First its participant cannot do it, then it is away altogether."""
    await start_all(blog)
    threads = blog.databases["comments"]
    execute(threads, *_BROKEN[threads.kind])
    deletions = Deletions(blog)
    await deletions.prepare(4)
    await deletions.ask()

    def fails() -> bool:
        tried = "SELECT 1 FROM outbox_held WHERE attempts > 0 AND destination = 'comments'"
        return len(rows(blog.databases["orchestrator"], tried)) == 2

    await until(fails, what="the compensation of both has failed")
    await blog.children["comments"].kill()
    drop_trigger(threads, "break")
    for article in deletions.held:
        saga = deletions.sagas[article]
        assert saga is not None
        shown = await blog.saga(saga)
        assert shown is not None
        assert shown["status"] == "COMPENSATING"
    await blog.start("comments")
    await deletions.assert_ended_rightly()


async def _is_undone(blog: RunningBlog, saga: str, name: str) -> bool:
    return bool((await step(blog, saga, name))["status"] == "UNDONE")


async def until_stuck(blog: RunningBlog, sagas: Iterable[str]) -> None:
    async def stuck() -> bool:
        return all([(await blog.saga(it) or {}).get("status") == "STUCK" for it in sagas])

    await until(stuck, deadline=30, what="the sagas are stuck")


async def test_p4_a_compensation_that_fails_for_ever_is_stuck_visibly_and_a_person_repairs_it(
    blog: RunningBlog,
) -> None:
    blog.settings["SAGABOX_SAGAS"] = "tests.support.blog.impatient:delete_article"
    await start_all(blog)
    threads = blog.databases["comments"]
    held = [await commented(blog, 2) for _ in range(3)]
    before = {article: await kept_on_hold(blog, article) for article in held}
    spoil_threads(threads)
    retried, skipped, resolved = [await blog.delete(article) for article in held]
    await until_stuck(blog, (retried, skipped, resolved))
    for saga in (retried, skipped, resolved):
        shown = await step(blog, saga, "close thread")
        assert shown["status"] == "STUCK"
        assert "already-deleted" in shown["reason"]
        # What is independent of it is undone, at the same time.
        await until(partial(_is_undone, blog, saga, "hide article"), what="the other is undone")

    await intervene(blog, retried, "retry", step="close thread")
    await until_stuck(blog, [retried])  # nothing has changed yet
    drop_trigger(threads, "spoil")
    execute(threads, "UPDATE threads SET known = 'published'")
    await intervene(blog, retried, "retry", step="close thread")
    assert await blog.until_ended(retried) == "COMPENSATED"
    await until_published(blog, held[0])
    assert await kept(blog, held[0]) == before[held[0]]

    await intervene(blog, skipped, "skip", step="close thread")
    await intervene(blog, resolved, "resolve")
    for saga, article in ((skipped, held[1]), (resolved, held[2])):
        assert await blog.until_ended(saga) == "RESOLVED"
        ended = await blog.saga(saga)
        assert ended is not None
        assert ended["not_undone"] == ["close thread"]
        # What is there is what the list says: the article is back, its thread is not.
        await until_published(blog, article)
        assert (await kept(blog, article)).article == before[article].article
        assert await blog.comments_of(article) == []
    assert_histories_are_whole(blog.databases["orchestrator"])


async def kept_on_hold(blog: RunningBlog, article: str) -> Kept:
    await blog.hold(article)
    return await kept(blog, article)
