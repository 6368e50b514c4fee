"""Each message is handled in its own trace: what its handler adds, logs and calls belongs to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

import outbox
from outbox import install, tables, tracing
from outbox.inbox.handlers import Context, Handlers
from outbox.wire.envelope import Envelope, from_row
from outbox.wire.traceparent import trace_id
from tests.support.outbox.inboxes import (
    Bench,
    Book,
    Listed,
    Names,
    Noted,
    envelope,
    outcomes,
    plainly,
)
from tests.support.outbox.spans import Spans

ONE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    made = async_sessionmaker(engine)
    install(made, source="bank", routes={Noted: ["press"]})
    return made


async def sent(engine: AsyncEngine) -> dict[str, Envelope]:
    """What was added, by its key."""
    rows = tables.outbox.c
    columns = (rows.id, rows.type, rows.aggregateid, rows.occurred_at, rows.payload, rows.headers)
    async with engine.connect() as connection:
        found = await connection.execute(select(*columns))
        return {row.aggregateid: from_row(*row) for row in found}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_each_message_of_a_batch_is_handled_in_its_own_trace(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], names: Names, is_async: bool
) -> None:
    handlers = Handlers("bank")
    seen: list[str | None] = []

    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        seen.append(tracing.current())
        outbox.add(session, Noted(command.account))

    def book_plainly(session: Session, command: Book, context: Context) -> Any:
        seen.append(tracing.current())
        outbox.add(session, Noted(command.account))

    handlers.on(Book)(book if is_async else plainly(book_plainly))
    bench = Bench(engine, handlers, sessions=sessions)
    batch = [
        envelope(names(), Book("a"), trace=ONE),
        envelope(names(), Book("b")),
        envelope(names(), Book("c"), trace=OTHER),
    ]
    token = attach(tracing.context_of("00-" + "1" * 32 + "-" + "2" * 16 + "-01"))
    try:
        assert outcomes(await bench.receive(*batch)) == ["done"] * 3
    finally:
        detach(token)
    assert seen == [ONE, None, OTHER]
    traces = {key: it.trace for key, it in (await sent(engine)).items()}
    assert traces == {"a": ONE, "b": None, "c": OTHER}


async def test_what_a_list_handler_adds_belongs_to_the_message_that_it_names(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], names: Names
) -> None:
    handlers = Handlers("bank")
    seen: list[str | None] = []

    @handlers.on_list(Listed)
    async def listed(
        session: AsyncSession, events: Sequence[Listed], contexts: Sequence[Context]
    ) -> list[None]:
        seen.append(tracing.current())
        for event, context in zip(events, contexts, strict=True):
            outbox.add(session, Noted(event.account), causation=context.id)
        outbox.add(session, Noted("of no message"))
        return [None] * len(events)

    saga = names()
    first = envelope(names(), Listed("a"), trace=ONE, correlation=saga)
    second = envelope(names(), Listed("b"), trace=OTHER)
    bench = Bench(engine, handlers, sessions=sessions)
    assert outcomes(await bench.receive(first, second)) == ["done", "done"]
    assert seen == [None]
    added = {
        key: (it.causation, it.correlation, it.trace) for key, it in (await sent(engine)).items()
    }
    assert added == {
        "a": (first.id, saga, ONE),
        "b": (second.id, None, OTHER),
        "of no message": (None, None, None),
    }


async def test_what_a_handler_logs_has_the_ids_of_its_message(
    engine: AsyncEngine, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(tracing.TraceIds())
    caplog.set_level(logging.DEBUG, "outbox")
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        logging.getLogger("bank").warning("booking")
        if command.entry == "bad":
            raise ValueError("no")

    saga = names()
    good = envelope(names(), Book("a"), trace=ONE, correlation=saga)
    bad = envelope(names(), Book("b", "bad"), trace=OTHER)
    bench = Bench(engine, handlers)
    assert outcomes(await bench.receive(good)) == ["done"]
    assert outcomes(await bench.receive(bad)) == ["failed"]
    lines = [
        (it.name, it.levelname, vars(it)["message_id"], vars(it)["trace_id"], vars(it)["type"])
        for it in caplog.records
        if it.name in {"bank", "outbox.inbox"}
    ]
    assert lines == [
        ("bank", "WARNING", good.id, trace_id(ONE), good.type),
        ("outbox.inbox", "DEBUG", good.id, trace_id(ONE), good.type),
        # Together with its batch, and alone.
        ("bank", "WARNING", bad.id, trace_id(OTHER), bad.type),
        ("bank", "WARNING", bad.id, trace_id(OTHER), bad.type),
        ("outbox.inbox", "ERROR", bad.id, trace_id(OTHER), bad.type),
    ]
    assert vars(caplog.records[0])["saga"] == saga


async def test_with_an_sdk_each_message_is_a_span_and_what_it_adds_another(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans = Spans()
    spans.install(monkeypatch)
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        outbox.add(session, Noted(command.account))

    bench = Bench(engine, handlers, sessions=sessions)
    await bench.receive(
        envelope(names(), Book("a"), trace=ONE), envelope(names(), Book("b"), trace=OTHER)
    )
    handled, made = spans.of_kind(SpanKind.CONSUMER), spans.of_kind(SpanKind.PRODUCER)
    assert [f"{it.trace:032x}" for it in handled] == [trace_id(ONE), trace_id(OTHER)]
    assert [it.parent for it in made] == [it.id for it in handled]
    left = await sent(engine)
    assert [left["a"].trace, left["b"].trace] == [it.traceparent for it in made]
