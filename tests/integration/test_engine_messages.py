"""Starts that come by a message, and the news of the end for whoever asked."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store import signal_rows as stored_signals
from orchestrator.store.records import shard_of
from orchestrator.store.signal_rows import StoredStart
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.ids import compose, first_at
from outbox.replies import Outcome, Reply
from tests.support.databases import Schema
from tests.support.engines import Node, Scripted, orchestrator_tables, running
from tests.support.waiting import until

ENDED = "orchestrator.saga-ended.v1"
ARTICLE = compose(1_700_000_000_000, 7)


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_tables


@pytest.fixture
def articles() -> Scripted:
    participant = Scripted()
    participant.values["articles.hide-article.v1"] = {"title": "Tides", "version": 1}
    return participant


@pytest.fixture
def comments() -> Scripted:
    participant = Scripted()
    participant.values["comments.close-thread.v1"] = {"comments": 3}
    return participant


def an_id(number: int) -> str:
    milliseconds = int(SystemClock().now().timestamp() * 1000)
    return compose(milliseconds, number)


async def ask(node: Node, saga_id: str, name: str = "delete-article", **input: object) -> None:
    """As the handler of StartSaga does."""
    kind, payload = stored_signals.dump_start(StoredStart(name, input, "articles"))
    async with node.database.engine.begin() as connection:
        await connection.execute(
            tables.saga_signal.insert().values(
                shard=shard_of(saga_id),
                saga_id=saga_id,
                kind=kind,
                payload=payload,
                made_at=SystemClock().now(),
            )
        )
    node.bell.ring()


def news(participant: Scripted) -> dict[str, str]:
    """What a participant was told of ends: saga -> status."""
    told = [json.loads(it.data) for it in participant.seen if it.type == ENDED]
    return {it["instance_id"]: it["status"] for it in told}


async def test_a_start_by_message_runs_under_its_id_and_its_originator_hears_of_the_end(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    saga_id = an_id(1)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, article_id=ARTICLE)
        await node.until_status(saga_id, Status.COMPLETED)
        await until(lambda: news(articles), what="the news")
    assert news(articles) == {saga_id: "COMPLETED"}
    assert news(comments) == {}


async def test_a_start_that_comes_again_begins_no_second_run(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    saga_id = an_id(1)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        for _ in range(2):
            await ask(node, saga_id, article_id=ARTICLE)
        await node.until_status(saga_id, Status.COMPLETED)
        await ask(node, saga_id, article_id=ARTICLE)

        async def is_applied() -> bool:
            return not await node.rows(tables.saga_signal)

        await until(is_applied, what="the signal is gone")
        assert len(await node.rows(tables.saga)) == 1
    assert articles.types().count("articles.hide-article.v1") == 1


async def test_a_start_that_loses_to_an_active_run_becomes_its_alias_and_hears_of_its_end(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    comments.is_away = True
    alias = an_id(1)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        active = await node.engine.start(delete_article, Deletion(ARTICLE))
        await ask(node, alias, article_id=ARTICLE)

        async def has_alias() -> bool:
            return bool(await node.rows(tables.saga_alias))

        await until(has_alias, what="the alias")
        (row,) = await node.rows(tables.saga_alias)
        assert (row.id, row.saga_id) == (alias, active.instance_id)
        comments.is_away = False
        await node.until_status(active.instance_id, Status.COMPLETED)
        await until(lambda: news(articles), what="the news")
        assert len(await node.rows(tables.saga)) == 1
    assert news(articles) == {alias: "COMPLETED"}


@pytest.mark.parametrize(
    ("name", "input", "why"),
    [
        ("delete-everything", {"article_id": ARTICLE}, "no saga 'delete-everything'"),
        ("delete-article", {}, "article_id"),
        ("delete-article", {"article_id": ""}, "the key"),
        ("delete-article", {"article_id": 7}, "article_id"),
    ],
)
async def test_a_start_that_cannot_be_made_is_answered_as_ended_and_says_why(
    engine: AsyncEngine,
    articles: Scripted,
    comments: Scripted,
    name: str,
    input: dict[str, object],
    why: str,
) -> None:
    """The article must not stay in deletion for a saga that never was."""
    saga_id = an_id(1)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, name, **input)
        await until(lambda: news(articles), what="the news")
        assert await node.rows(tables.saga) == []
        (row,) = await node.rows(tables.saga_alias)
    assert news(articles) == {saga_id: "REFUSED"}
    assert row.saga_id is None
    assert why in row.reason


async def test_a_start_that_is_too_old_is_refused(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    """Participants were told that sagas of that age have ended."""
    saga_id = first_at(SystemClock().now() - timedelta(days=8))
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        settled = node.engine.settled()
        await ask(node, saga_id, article_id=ARTICLE)
        await until(lambda: news(articles), what="the news")
        assert await node.rows(tables.saga) == []
        assert settled is None or settled.covers(saga_id)


async def test_what_is_settled_leaves_out_what_lives(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await until(node.engine.settled, what="the first look at what lives")
        settled = node.engine.settled()
        started = await node.engine.start(delete_article, Deletion(ARTICLE))
        assert settled is not None
        assert not settled.covers(started.instance_id)
        await node.until_status(started.instance_id, Status.COMPLETED)


async def test_a_compensated_run_tells_its_originator_so(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    articles.replies["articles.delete-article.v1"] = Reply(Outcome.REFUSED, code="legal-hold")
    saga_id = an_id(1)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, article_id=ARTICLE)
        await until(lambda: news(articles), what="the news")

        async def is_settled() -> bool:
            return not await node.rows(library.outbox)

        await until(is_settled, what="the outbox is empty")
    assert news(articles) == {saga_id: "COMPENSATED"}
