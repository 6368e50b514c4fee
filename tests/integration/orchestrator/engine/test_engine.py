"""The engine on a real database: runs go to their end, and come back as they were."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.engine import IdempotencyKey
from orchestrator.engine.settings import EngineSettings
from orchestrator.errors import (
    ActiveAlready,
    IllegalSignal,
    InvalidInput,
    KeyReused,
    Unavailable,
    UnknownRun,
)
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Cancel
from orchestrator.sagas.delete_article import Deletion, delete_article
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.ids import compose
from outbox.relay.settings import RelaySettings
from outbox.replies import Outcome, Reply
from tests.support.orchestrator.engines import Scripted, running

ARTICLE = compose(1_700_000_000_000, 1)
HIDDEN = {"title": "Tides", "version": 1}


@pytest.fixture
def articles() -> Scripted:
    participant = Scripted()
    participant.values["articles.hide-article.v1"] = HIDDEN
    return participant


async def test_a_run_goes_to_its_end(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        started = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(started.instance_id, Status.COMPLETED)
        assert articles.types() == ["articles.hide-article.v1", "articles.delete-article.v1"]
        assert comments.types() == ["comments.close-thread.v1", "comments.purge-thread.v1"]
        assert await node.rows(library.outbox) == []
        lines = await node.rows(tables.saga_history)
    assert [line.number for line in sorted(lines, key=lambda it: it.number)] == list(
        range(1, len(lines) + 1)
    )


async def test_a_refused_pivot_is_undone(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    articles.replies["articles.delete-article.v1"] = Reply(Outcome.REFUSED, code="legal-hold")
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        started = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(started.instance_id, Status.COMPENSATED)
    assert comments.types() == ["comments.close-thread.v1", "comments.reopen-thread.v1"]
    assert articles.types()[-1] == "articles.unhide-article.v1"
    undo = comments.seen[-1]
    assert undo.undoes == (comments.seen[0].id,)
    assert undo.correlation == comments.seen[0].correlation == started.instance_id


async def test_many_runs_at_once_all_end(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        ids = [compose(1_700_000_000_000, number) for number in range(1, 101)]
        started = [await node.engine.start(delete_article, Deletion(it)) for it in ids]
        for each in started:
            await node.until_status(each.instance_id, Status.COMPLETED)
        assert len(articles.seen) == len(comments.seen) == 200


async def test_a_start_repeated_under_its_key_begins_one_run(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    key = IdempotencyKey("mine", b"1" * 32)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        first = await node.engine.start(delete_article, Deletion(ARTICLE), key=key)
        again = await node.engine.start(delete_article, Deletion(ARTICLE), key=key)
        assert first.is_new
        assert (again.instance_id, again.is_new) == (first.instance_id, False)
        with pytest.raises(KeyReused):
            await node.engine.start(
                delete_article, Deletion(ARTICLE), key=IdempotencyKey("mine", b"2" * 32)
            )
        assert len(await node.rows(tables.saga)) == 1


async def test_one_run_is_active_for_a_key(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    articles.is_away = True
    key = IdempotencyKey("other", b"1" * 32)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        first = await node.engine.start(delete_article, Deletion(ARTICLE))
        with pytest.raises(ActiveAlready) as refused:
            await node.engine.start(delete_article, Deletion(ARTICLE), key=key)
        assert refused.value.instance_id == first.instance_id
        articles.is_away = False
        await node.until_status(first.instance_id, Status.COMPLETED)
        second = await node.engine.start(delete_article, Deletion(ARTICLE), key=key)
        assert second.is_new
        await node.until_status(second.instance_id, Status.COMPLETED)


async def test_two_starts_at_once_under_one_key_are_not_told_of_a_run_that_never_began(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    articles.is_away = True
    key = IdempotencyKey("mine", b"1" * 32)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        active = await node.engine.start(delete_article, Deletion(ARTICLE))
        asked = [node.engine.start(delete_article, Deletion(ARTICLE), key=key) for _ in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(it) for it in answers] == [ActiveAlready] * 3
        articles.is_away = False
        await node.until_status(active.instance_id, Status.COMPLETED)
        again = await node.engine.start(delete_article, Deletion(ARTICLE), key=key)
        assert again.is_new


async def test_a_cancelled_run_is_undone_and_an_ended_one_cannot_be_cancelled(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    comments.is_away = True
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        started = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.engine.signal(started.instance_id, Cancel("ada", "wrong one"))
        comments.is_away = False
        await node.until_status(started.instance_id, Status.COMPENSATED)
        with pytest.raises(IllegalSignal):
            await node.engine.signal(started.instance_id, Cancel("ada", "again"))
        with pytest.raises(UnknownRun):
            await node.engine.signal(ARTICLE, Cancel("ada", "no such run"))


async def test_bad_input_begins_nothing(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        with pytest.raises(InvalidInput):
            await node.engine.start(delete_article, Deletion(""))
        assert await node.rows(tables.saga) == []


async def test_a_node_works_on_when_its_first_lease_would_have_run_out(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    clock, ids = SystemClock(), (compose(1_700_000_000_000, it) for it in itertools.count(1))

    async def works_on(lease: float) -> bool:
        relay = RelaySettings(lease=lease, margin=0.5, delivery_timeout=0.4, poll=0.1)
        async with running(
            engine,
            [delete_article],
            {"articles": articles, "comments": comments},
            settings=EngineSettings(relay=relay),
        ) as node:
            began = clock.monotonic()
            while clock.monotonic() < began + lease + 0.3:
                try:
                    started = await node.engine.start(delete_article, Deletion(next(ids)))
                except Unavailable:
                    return False
                await node.until_status(started.instance_id, Status.COMPLETED)
        return True

    # A process that stands still for a while loses a lease that is shorter, though it renews it.
    assert await works_on(1.2) or await works_on(6.0) or await works_on(30.0)
