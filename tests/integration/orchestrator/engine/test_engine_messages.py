"""Starts that come by a message, and the news of the end for the service that asked."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.commits import ends
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.ids import compose, derive, first_at
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope
from tests.support.orchestrator.engines import Node, Scripted, running
from tests.support.processes.waiting import until

ENDED = "orchestrator.saga-ended.v1"
ARTICLE = compose(1_700_000_000_000, 7)


def an_id(number: int) -> str:
    milliseconds = int(SystemClock().now().timestamp() * 1000)
    return compose(milliseconds, number)


async def ask(
    node: Node,
    saga_id: str,
    name: str = "delete-article",
    message_id: str | None = None,
    **input: object,
) -> None:
    """As the handler of StartSaga does; without a `message_id` as it did before it kept that."""
    kind, payload = signal_rows.dump_start(StoredStart(name, input, "articles"))
    async with node.database.engine.begin() as connection:
        await connection.execute(
            tables.saga_signal.insert().values(
                shard=shard_of(saga_id),
                saga_id=saga_id,
                kind=kind,
                payload=payload,
                made_at=SystemClock().now(),
                message_id=message_id,
            )
        )
    node.bell.ring()


def told_of_ends(participant: Scripted) -> list[Envelope]:
    """The news of ends, each message once."""
    return list({it.id: it for it in participant.seen if it.type == ENDED}.values())


def a_stored_run(id: str, number: str, now: datetime, ended: datetime | None) -> dict[str, Any]:
    return {
        "id": id,
        "number": number,
        "shard": shard_of(id),
        "name": "another",
        "version": 1,
        "key": id,
        "status": "STUCK" if ended is None else "COMPLETED",
        "paused": False,
        "state": "{}",
        "document": "{}",
        "revision": 1,
        "entries": 0,
        "created_at": now,
        "updated_at": now,
        "ended_at": ended,
    }


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
        await ask(node, saga_id, name, None, **input)
        await until(lambda: news(articles), what="the news")
        assert await node.rows(tables.saga) == []
        (row,) = await node.rows(tables.saga_alias)
    assert news(articles) == {saga_id: "REFUSED"}
    assert row.saga_id is None
    assert why in row.reason
    (told,) = [json.loads(it.data) for it in told_of_ends(articles)]
    assert (told["code"], told["reason"], told["state"]) == ("refused", row.reason, None)


async def test_a_start_of_any_age_begins_a_run_that_is_as_young_as_its_number(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    """Participants were told that runs with ids of that age have ended; not so of its number."""
    saga_id = first_at(SystemClock().now() - timedelta(days=60))
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await until(node.engine.settled, what="the first look at what lives")
        settled = node.engine.settled()
        assert settled is not None
        await ask(node, saga_id, article_id=ARTICLE)
        await node.until_status(saga_id, Status.COMPLETED)
        await until(lambda: news(articles), what="the news")
        (row,) = await node.rows(tables.saga)
    assert row.number > saga_id
    assert settled.covers(saga_id)
    assert not settled.covers(row.number)
    commands = [it for it in articles.seen if it.type != ENDED]
    assert {it.run_number for it in commands} == {row.number}
    assert {it.correlation for it in commands} == {saga_id}


async def test_the_news_of_an_end_is_as_young_as_the_end(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    """Its id follows from the start, which may be older than what a participant remembers."""
    saga_id = first_at(SystemClock().now() - timedelta(days=45))
    began = SystemClock().now()
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, article_id=ARTICLE)
        await until(lambda: news(articles), what="the news")
    (told,) = [it for it in articles.seen if it.type == ENDED]
    assert told.id == derive(saga_id, "ended")
    assert told.due is not None
    assert abs(told.due - began) < timedelta(minutes=1)


async def test_a_second_start_for_a_run_that_has_ended_is_answered_by_a_message_of_its_own(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    saga_id, second = an_id(1), an_id(2)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, message_id=saga_id, article_id=ARTICLE)
        await until(lambda: news(articles), what="the news")
        await ask(node, saga_id, message_id=saga_id, article_id=ARTICLE)
        await ask(node, saga_id, message_id=second, article_id=ARTICLE)
        await until(lambda: len(told_of_ends(articles)) > 1, what="the second answer")
        assert len(await node.rows(tables.saga)) == 1
    answers = [(it.id, json.loads(it.data)) for it in told_of_ends(articles)]
    status = {"instance_id": saga_id, "status": "COMPLETED", "code": None, "reason": None}
    state = {"article_id": ARTICLE, "title": "Tides", "comments": 3}
    assert answers == [
        (derive(saga_id, "ended"), {**status, "state": state}),
        (derive(second, "ended"), {**status, "state": None}),
    ]


async def test_a_second_start_under_a_refused_id_is_refused_by_a_message_of_its_own(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    saga_id, first, second, third = an_id(1), an_id(2), an_id(3), an_id(4)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, "unknown", message_id=first)
        await until(lambda: told_of_ends(articles), what="the refusal")
        await ask(node, saga_id, "unknown", message_id=second)
        await until(lambda: len(told_of_ends(articles)) > 1, what="the second refusal")
        # The right definition, but an id is used once.
        await ask(node, saga_id, message_id=third, article_id=ARTICLE)
        await until(lambda: len(told_of_ends(articles)) > 2, what="the third refusal")
        assert await node.rows(tables.saga) == []
    ids = [it.id for it in told_of_ends(articles)]
    assert ids == [derive(each, "ended") for each in (first, second, third)]
    assert {json.loads(it.data)["status"] for it in told_of_ends(articles)} == {"REFUSED"}


async def test_a_start_that_another_run_stands_for_is_answered_by_the_message_that_asked(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    run, alias, message = an_id(1), an_id(2), an_id(3)
    comments.is_away = True
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, run, message_id=run, article_id=ARTICLE)
        await until(lambda: articles.seen, what="the first command")
        await ask(node, alias, message_id=message, article_id=ARTICLE)

        async def is_known() -> bool:
            return len(await node.rows(tables.saga_alias)) == 1

        await until(is_known, what="the other name of the run")
        comments.is_away = False
        await until(lambda: len(told_of_ends(articles)) > 1, what="both answers")
    answers = {it.id: json.loads(it.data)["instance_id"] for it in told_of_ends(articles)}
    assert answers == {derive(run, "ended"): run, derive(message, "ended"): alias}


async def test_a_command_that_is_repeated_is_due_when_it_was_sent_first(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    hide = "articles.hide-article.v1"
    articles.replies[hide] = Reply(Outcome.ONGOING, code="ongoing", retry_after=0.01)
    saga_id = an_id(1)

    def sent() -> list[Envelope]:
        return [it for it in articles.seen if it.type == hide]

    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, article_id=ARTICLE)
        await until(lambda: len(sent()) > 1, what="the repetition")
        del articles.replies[hide]
        await node.until_status(saga_id, Status.COMPLETED)
    first, again = sent()[:2]
    assert (again.id, again.due) == (first.id, first.due)
    assert again.time > first.time


async def test_live_runs_are_told_of_by_number_and_by_id(
    engine: AsyncEngine, articles: Scripted, comments: Scripted
) -> None:
    """Participants of the version before count by the ids."""
    now = SystemClock().now()
    asked, ended = (first_at(now - timedelta(days=days)) for days in (60, 50))
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        number = first_at(now - timedelta(days=40))
        for id, end in ((asked, None), (ended, now)):
            async with node.database.engine.begin() as connection:
                await connection.execute(
                    tables.saga.insert().values(a_stored_run(id, number, now, end))
                )
            number = first_at(now - timedelta(days=30))

        def says_so() -> bool:
            settled = node.engine.settled()
            return settled is not None and bool(settled.live)

        await until(says_so, deadline=20, what="the next look at what lives")
        settled = node.engine.settled()
    assert settled is not None
    assert settled.live == {asked, first_at(now - timedelta(days=40))}
    assert settled.covers(ended)


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
    (told,) = [json.loads(it.data) for it in told_of_ends(articles)]
    assert (told["code"], told["reason"]) == ("legal-hold", "refused")
    assert told["state"]["article_id"] == ARTICLE


async def test_a_state_of_more_than_64_kib_is_left_out_of_the_news(
    engine: AsyncEngine,
    articles: Scripted,
    comments: Scripted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ends.MAX_STATE_BYTES == 64 * 1024
    state = len(json.dumps({"article_id": ARTICLE, "title": "Tides", "comments": 3}, indent=None))
    monkeypatch.setattr(ends, "MAX_STATE_BYTES", state // 2)
    saga_id = an_id(1)
    async with running(
        engine, [delete_article], {"articles": articles, "comments": comments}
    ) as node:
        await ask(node, saga_id, article_id=ARTICLE)
        await until(lambda: news(articles), what="the news")
    (told,) = [json.loads(it.data) for it in told_of_ends(articles)]
    assert (told["status"], told["state"]) == ("COMPLETED", None)
