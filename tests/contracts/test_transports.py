"""Every transport keeps the contract, and an inbox behind it takes each message once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import SystemClock
from outbox.ids import Ids, compose
from outbox.replies import Outcome, Reply
from outbox.testing.transport_contract import (
    Connect,
    ContractTest,
    Features,
    Line,
    Receive,
    Settled,
    contract_tests,
)
from outbox.testing.transport_contract.bench import USUAL, bench, plain
from outbox.transports import Answered
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import Schema
from tests.support.outbox import broker_lines, lines
from tests.support.outbox.envelopes import AN_ID
from tests.support.outbox.inboxes import Bench, Book, envelope, ledger_schema
from tests.support.processes.waiting import BUSY

KIT = "outbox.testing.transport_contract"
PATIENCE = 5 * BUSY
"""Seconds for which a transport waits for the other side."""
EARLIER = compose(1_000, 0)
DATABASE = "019b76da-a800-7000-8000-00000000000a"

WAYS: dict[str, tuple[Connect, Features]] = {
    "memory": (lines.by_memory, lines.MEMORY),
    "in process": (lines.in_process, lines.IN_PROCESS),
    "http": (lines.by_http, lines.HTTP),
    "grpc": (lines.by_grpc, lines.GRPC),
    "webhook": (lines.by_webhook, lines.WEBHOOK),
    "accepting": (lines.by_accepting, lines.ACCEPTING),
    "nats": (broker_lines.by_nats, broker_lines.NATS),
    "broker in memory": (broker_lines.by_memory_broker, broker_lines.MEMORY_BROKER),
    "redis": (broker_lines.by_redis, broker_lines.REDIS),
    "kafka": (broker_lines.by_kafka, broker_lines.KAFKA),
    "rabbitmq": (broker_lines.by_rabbitmq, broker_lines.RABBITMQ),
}


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of the contract are those of a machine that has nothing else to do. What is to have
    left within the short one has to connect first."""
    monkeypatch.setattr(f"{KIT}.bench.IN_TIME", 10 * BUSY)
    monkeypatch.setattr(f"{KIT}.each._IN_TIME_TO_STOP", PATIENCE * 2 / 3)
    monkeypatch.setattr(f"{KIT}.each.SHORT", 1.0)
    monkeypatch.setattr("outbox.transports.brokers.jetstream.connection.CONNECTING", PATIENCE)


def patient(connect: Connect) -> Connect:
    """The same line; where its other side answers, it may take its time."""

    @asynccontextmanager
    async def connected(
        receive: Receive, *, timeout: float, settled: Settled | None
    ) -> AsyncIterator[Line]:
        within = PATIENCE if timeout == USUAL else timeout
        async with connect(receive, timeout=within, settled=settled) as line:
            yield line

    return connected


@pytest.mark.parametrize(
    ("way", "test"),
    [(way, test) for way, (_, features) in WAYS.items() for test in contract_tests(features)],
    ids=str,
)
async def test_it_keeps_the_contract(way: str, test: ContractTest) -> None:
    connect, _ = WAYS[way]
    await test.run(patient(connect))


@pytest.mark.parametrize("way", [way for way, (_, it) in WAYS.items() if it.carries_statements])
async def test_the_database_of_which_a_statement_tells_travels_with_it(way: str) -> None:
    """A transport of another's need not carry it; each of these does."""
    connect, features = WAYS[way]
    said = [EndedSagas(AN_ID, frozenset({EARLIER}), DATABASE), EndedSagas(AN_ID, database=DATABASE)]
    said.append(EndedSagas(AN_ID))
    coming = iter(said)
    async with bench(features, patient(connect), settled=lambda: next(coming)) as it:
        for number, _ in enumerate(said):
            await it.confirmed([plain(number)])
        assert it.end.statements == said


def is_answered(delivery: object, *values: Any) -> bool:
    return delivery == Answered([Reply(Outcome.DONE, value=value) for value in values])


@pytest.mark.parametrize(
    "connect",
    [lines.by_memory, lines.in_process, lines.by_http, lines.by_grpc],
    ids=["memory", "in process", "http", "grpc"],
)
class TestWithAnInbox:
    """The same with a real inbox behind it."""

    @pytest.fixture
    def database_schema(self) -> Schema | str:
        return ledger_schema

    async def test_what_is_delivered_twice_takes_effect_once(
        self, connect: Connect, engine: AsyncEngine
    ) -> None:
        new_id, bench = Ids(SystemClock(), os.urandom), Bench(engine)
        batch = [
            envelope(new_id(), Book("ada", "first")),
            envelope(AN_ID, Book("ada", "second")),
            envelope(new_id(), Book("bob", "third")),
        ]
        async with connect(bench.inbox.receive, timeout=PATIENCE, settled=None) as line:
            first = await line.transport.deliver(batch)
            again = await line.transport.deliver(batch[1:])
        assert is_answered(first, *[{"balance": 1}] * 3)
        assert is_answered(again, *[{"balance": 1}] * 2)
        assert await bench.entries() == ["first", "second", "third"]

    async def test_an_id_that_comes_with_another_payload_is_rejected(
        self, connect: Connect, engine: AsyncEngine
    ) -> None:
        bench = Bench(engine)
        async with connect(bench.inbox.receive, timeout=PATIENCE, settled=None) as line:
            await line.transport.deliver([envelope(AN_ID, Book("ada", "first"))])
            delivery = await line.transport.deliver([envelope(AN_ID, Book("ada", "other"))])
        assert isinstance(delivery, Answered)
        (reply,) = delivery.replies
        assert reply.outcome is Outcome.REJECTED
        assert await bench.entries() == ["first"]
