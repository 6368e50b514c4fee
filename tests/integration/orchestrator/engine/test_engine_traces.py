"""All that a run sends belongs to the trace of its start, and the log says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Retry
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart
from outbox import tracing
from outbox.clock import SystemClock
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope
from outbox.wire.traceparent import minted, trace_id
from tests.support.orchestrator.engines import Node, Scripted, running
from tests.support.orchestrator.trips import NAMES, SIDE_BY_SIDE, Trip
from tests.support.outbox.spans import Kept, Spans
from tests.support.processes.waiting import until

ENDED = "orchestrator.saga-ended.v1"
ARTICLE = compose(1_700_000_000_000, 7)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def blog(articles: Scripted, comments: Scripted) -> dict[str, Any]:
    return {"articles": articles, "comments": comments}


@contextmanager
def within(trace: str) -> Iterator[None]:
    token = attach(tracing.context_of(trace))
    try:
        yield
    finally:
        detach(token)


def an_id(number: int) -> str:
    milliseconds = int(SystemClock().now().timestamp() * 1000)
    return compose(milliseconds, number)


async def ask(node: Node, saga_id: str, trace: str | None, name: str = "delete-article") -> None:
    """As the handler of StartSaga does."""
    start = StoredStart(name, {"article_id": ARTICLE}, "articles", trace)
    kind, payload = signal_rows.dump_start(start)
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


def traces(participant: Scripted) -> list[tuple[str, str | None]]:
    return [(it.type.split(".")[1], it.trace) for it in participant.seen]


def news(participant: Scripted) -> dict[str, str | None]:
    """The traces in which it was told of ends, by saga."""
    told = [it for it in participant.seen if it.type == ENDED]
    return {json.loads(it.data)["instance_id"]: it.trace for it in told}


def all_traces(*of: Sequence[Envelope]) -> set[str | None]:
    return {it.trace for seen in of for it in seen}


async def test_all_that_a_run_sends_carries_the_trace_of_its_start(
    engine: AsyncEngine, articles: Scripted, comments: Scripted, blog: dict[str, Any]
) -> None:
    async with running(engine, [delete_article], blog) as node:
        with within(TRACE):
            run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.COMPLETED)
        (row,) = await node.rows(tables.saga)
    assert row.trace == TRACE
    assert traces(articles) == [("hide-article", TRACE), ("delete-article", TRACE)]
    # A message may come twice, where the machine is so busy that its database gives up on us.
    assert list(dict.fromkeys(traces(comments))) == [
        ("close-thread", TRACE),
        ("purge-thread", TRACE),
    ]


async def test_compensations_and_the_news_of_the_end_carry_it_too(
    engine: AsyncEngine, articles: Scripted, comments: Scripted, blog: dict[str, Any]
) -> None:
    articles.replies["articles.delete-article.v1"] = Reply(Outcome.REFUSED, code="held")
    saga_id = an_id(1)
    async with running(engine, [delete_article], blog) as node:
        await ask(node, saga_id, TRACE)
        await node.until_status(saga_id, Status.COMPENSATED)
        await until(lambda: news(articles), what="the news")
    sent = [*traces(articles), *traces(comments)]
    assert {"unhide-article", "reopen-thread", "saga-ended"} < {name for name, _ in sent}
    assert {trace for _, trace in sent} == {TRACE}
    assert news(articles) == {saga_id: TRACE}


async def test_a_run_without_a_trace_has_one_that_follows_from_its_id(
    engine: AsyncEngine, articles: Scripted, comments: Scripted, blog: dict[str, Any]
) -> None:
    saga_id = an_id(1)
    async with running(engine, [delete_article], blog) as node:
        await ask(node, saga_id, None)
        await node.until_status(saga_id, Status.COMPLETED)
        await until(lambda: news(articles), what="the news")
    assert all_traces(articles.seen, comments.seen) == {minted(saga_id)}


async def test_after_a_restart_and_a_repair_the_trace_is_still_that_of_the_start(
    engine: AsyncEngine, articles: Scripted, comments: Scripted, blog: dict[str, Any]
) -> None:
    comments.replies["comments.purge-thread.v1"] = Reply(Outcome.REJECTED, code="invalid")
    async with running(engine, [delete_article], blog) as node:
        with within(TRACE):
            run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.STUCK)
    comments.seen.clear()
    comments.replies.clear()
    async with running(engine, [delete_article], blog) as node:
        with within(OTHER):
            retry = Retry("purge comments", actor="ada", reason="mended")
            await node.engine.signal(run.instance_id, retry)
        await node.until_status(run.instance_id, Status.COMPLETED)
        (row,) = await node.rows(tables.saga)
    assert traces(comments) == [("purge-thread", TRACE)]
    assert row.trace == TRACE


async def test_a_start_that_was_joined_to_a_run_hears_of_its_end_in_its_own_trace(
    engine: AsyncEngine, articles: Scripted, comments: Scripted, blog: dict[str, Any]
) -> None:
    comments.is_away = True
    known, unknown = an_id(1), an_id(2)
    async with running(engine, [delete_article], blog) as node:
        with within(TRACE):
            await node.engine.start(delete_article, Deletion(ARTICLE))
        await ask(node, known, OTHER)
        await ask(node, unknown, None)

        async def are_aliases() -> bool:
            return len(await node.rows(tables.saga_alias)) == 2

        await until(are_aliases, what="the aliases")
        comments.is_away = False
        await until(lambda: len(news(articles)) == 2, what="the news")
    assert news(articles) == {known: OTHER, unknown: minted(unknown)}


async def test_a_refused_start_is_told_and_logged_in_its_trace(
    engine: AsyncEngine,
    articles: Scripted,
    blog: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    saga_id = an_id(1)
    async with running(engine, [delete_article], blog) as node:
        await ask(node, saga_id, TRACE, name="no-such-saga")
        await until(lambda: news(articles), what="the news")
        (row,) = await node.rows(tables.saga_alias)
    assert news(articles) == {saga_id: TRACE}
    assert row.trace == TRACE
    (line,) = [it for it in caplog.records if it.name == "orchestrator.engine.commits.starts"]
    assert (vars(line)["saga"], vars(line)["trace_id"]) == (saga_id, trace_id(TRACE))


# The log


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str | None]]:
    """What was logged of runs: level, happening, step."""
    return [
        (it.levelname, it.getMessage().split(" ")[1].rstrip(":"), vars(it).get("step"))
        for it in caplog.records
        if it.name == "orchestrator.runs"
    ]


async def test_a_run_that_goes_well_is_one_line_of_the_log(
    engine: AsyncEngine, blog: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(engine, [delete_article], blog) as node:
        with within(TRACE):
            run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.COMPLETED)
    (line,) = [it for it in caplog.records if it.name == "orchestrator.runs"]
    assert line.levelname == "INFO"
    assert line.getMessage() == "delete-article ended: COMPLETED"
    fields = vars(line)
    assert (fields["saga"], fields["saga_name"]) == (run.instance_id, "delete-article")
    assert (fields["trace_id"], fields["span_id"]) == (TRACE[3:35], TRACE[36:52])


async def test_the_turns_of_a_run_are_logged_and_one_that_is_stuck_is_an_error(
    engine: AsyncEngine,
    articles: Scripted,
    comments: Scripted,
    blog: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    articles.replies["articles.delete-article.v1"] = Reply(Outcome.REFUSED, code="held")
    comments.replies["comments.reopen-thread.v1"] = Reply(Outcome.REJECTED, code="invalid")
    async with running(engine, [delete_article], blog) as node:
        with within(TRACE):
            run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.STUCK)
        await until(lambda: ("ERROR", "stuck", "close thread") in told(caplog), what="the line")
        comments.replies.clear()
        retry = Retry("close thread", actor="ada", reason="mended")
        await node.engine.signal(run.instance_id, retry)
        await node.until_status(run.instance_id, Status.COMPENSATED)
    assert told(caplog) == [
        ("INFO", "turned-back", None),
        ("ERROR", "stuck", "close thread"),
        ("INFO", "operator", "close thread"),
        ("INFO", "ended", None),
    ]
    of_runs = [vars(it) for it in caplog.records if it.name == "orchestrator.runs"]
    assert {(it["saga"], it["trace_id"]) for it in of_runs} == {(run.instance_id, trace_id(TRACE))}
    assert of_runs[2]["actor"] == "ada"


async def test_at_debug_every_line_of_the_history_is_logged(
    engine: AsyncEngine, blog: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "orchestrator.runs")
    async with running(engine, [delete_article], blog) as node:
        run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.COMPLETED)
        entries = await node.rows(tables.saga_history)
    lines = told(caplog)
    assert [(name, step) for _, name, step in lines] == [
        (it.happening, it.step) for it in sorted(entries, key=lambda it: it.number)
    ]
    assert {level for level, name, _ in lines if name != "ended"} == {"DEBUG"}
    sent = [vars(it) for it in caplog.records if " sent: " in it.getMessage()]
    assert [it["message_id"] for it in sent] == [
        it.command_id for it in sorted(entries, key=lambda it: it.number) if it.happening == "sent"
    ]


async def test_what_was_rolled_back_is_not_logged(
    engine: AsyncEngine,
    blog: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commit fails once after the run's end was worked out; it is worked out again."""
    from orchestrator.engine.commits.group_commit import GroupCommit

    caplog.set_level(logging.INFO)
    failures = 0

    def failing(work: Any) -> Any:
        async def worked(self: GroupCommit, items: Any, **options: Any) -> None:
            nonlocal failures
            await work(self, items, **options)
            if self._changes.ended and not failures:
                failures += 1
                raise ConnectionResetError

        return worked

    for way in ("work", "gather"):
        monkeypatch.setattr(GroupCommit, way, failing(getattr(GroupCommit, way)))
    async with running(engine, [delete_article], blog) as node:
        run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.COMPLETED)
        await until(lambda: told(caplog), what="the line")
    assert failures == 1
    assert told(caplog) == [("INFO", "ended", None)]


async def test_with_an_sdk_commands_and_the_whole_run_are_spans_of_its_trace(
    engine: AsyncEngine,
    articles: Scripted,
    blog: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans = Spans()
    spans.install(monkeypatch)
    async with running(engine, [delete_article], blog) as node:
        with within(TRACE):
            run = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(run.instance_id, Status.COMPLETED)
        await until(lambda: spans.of_kind(SpanKind.INTERNAL), what="the span of the run")
    (whole,) = spans.of_kind(SpanKind.INTERNAL)
    made = spans.of_kind(SpanKind.PRODUCER)
    assert {f"{it.trace:032x}" for it in spans.all} == {trace_id(TRACE)}
    assert whole.name == "saga delete-article"
    assert whole.attributes["sagabox.saga.status"] == "COMPLETED"
    assert whole.start_time is not None
    assert whole.end_time is not None
    assert whole.start_time < whole.end_time
    steps = [it.attributes["sagabox.saga.step"] for it in made]
    assert steps == ["hide article", "close thread", "delete article", "purge comments"]
    assert articles.seen[0].trace == made[0].traceparent


async def test_a_step_that_waited_for_several_has_links_to_the_spans_of_each(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans, all_ = Spans(), a_trip()
    spans.install(monkeypatch)
    async with running(engine, [SIDE_BY_SIDE], dict.fromkeys(NAMES, all_)) as node:
        run = await node.engine.start(SIDE_BY_SIDE, Trip("t1"))
        await node.until_status(run.instance_id, Status.COMPLETED)
    links = links_by_step(spans)
    assert links["reserve seat"] == links["reserve room"] == set()
    assert links["charge"] == {"reserve seat", "reserve room"}
    assert links["send ticket"] == {"charge"}


async def test_links_outlive_the_node_that_made_the_spans(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, all_ = Spans(), Spans(), a_trip()
    before.install(monkeypatch)
    all_.replies["mails.send-ticket.v1"] = Reply(Outcome.REJECTED, code="invalid")
    async with running(engine, [SIDE_BY_SIDE], dict.fromkeys(NAMES, all_)) as node:
        run = await node.engine.start(SIDE_BY_SIDE, Trip("t1"))
        await node.until_status(run.instance_id, Status.STUCK)
    all_.replies.clear()
    after.install(monkeypatch)
    async with running(engine, [SIDE_BY_SIDE], dict.fromkeys(NAMES, all_)) as node:
        retry = Retry("send ticket", actor="ada", reason="mended")
        await node.engine.signal(run.instance_id, retry)
        await node.until_status(run.instance_id, Status.COMPLETED)
    (made,) = after.of_kind(SpanKind.PRODUCER)
    (charge,) = [
        it
        for it in before.of_kind(SpanKind.PRODUCER)
        if it.attributes["sagabox.saga.step"] == "charge"
    ]
    assert {it.context.span_id for it in made.links} == {charge.id}


async def test_an_undo_has_links_to_what_it_undoes_and_to_the_steps_behind_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans, all_ = Spans(), a_trip()
    spans.install(monkeypatch)
    all_.replies["payments.charge.v1"] = Reply(Outcome.REFUSED, code="no-money")
    async with running(engine, [SIDE_BY_SIDE], dict.fromkeys(NAMES, all_)) as node:
        run = await node.engine.start(SIDE_BY_SIDE, Trip("t1"))
        await node.until_status(run.instance_id, Status.COMPENSATED)
    links = links_by_step(spans)
    assert links["undo of reserve seat"] == {"reserve seat", "charge"}
    assert links["undo of reserve room"] == {"reserve room", "charge"}


def a_trip() -> Scripted:
    """All participants of a trip."""
    all_ = Scripted()
    all_.values["trains.reserve-seat.v1"] = {"number": "7"}
    return all_


def links_by_step(spans: Spans) -> dict[str, set[str]]:
    """The steps to whose commands the latest command of each step has links."""
    made = spans.of_kind(SpanKind.PRODUCER)

    def step(of: Kept) -> str:
        named: str = of.attributes["sagabox.saga.step"]
        is_undo = ".release-" in of.attributes["sagabox.message.type"]
        return f"undo of {named}" if is_undo else named

    by_id = {it.id: step(it) for it in made}
    return {step(it): {by_id[link.context.span_id] for link in it.links} for it in made}
