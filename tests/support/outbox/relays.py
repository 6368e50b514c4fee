"""A relay under test: rows put straight into the outbox, and a destination that does as told."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import SystemClock
from outbox.coordination.bell import Bell
from outbox.ids import compose
from outbox.lanes import BUCKETS
from outbox.relay.ports import ReplySink
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.tables import DEFAULT_TABLES, outbox, outbox_dead, outbox_held, outbox_parked
from outbox.testing import FakeClock
from outbox.transports.base import Answered, Delivery, Transport
from outbox.wire.envelope import Envelope, headers_json
from tests.support.processes.waiting import until

DONE = Reply(Outcome.DONE)
FAILED = Reply(Outcome.FAILED, reason="ValueError: no")
QUICK = RetryPolicy(first=0.02, factor=1.0, ceiling=0.02, jitter=0.0, attempts=4)
"""Pauses that a test can wait out also on PostgreSQL, which keeps its own time."""

_numbers = itertools.count(1)


def message(key: str = "k", *, urgent: bool = False, **changes: Any) -> tuple[int, Envelope]:
    """A message and its bucket."""
    envelope = Envelope(
        id=compose(1_900_000_000_000 + next(_numbers), 7),
        source="articles",
        type="articles.noted.v1",
        key=key,
        time=datetime(2030, 1, 1, tzinfo=UTC),
        data=b'{"n":1}',
    )
    lane = 0 if urgent else 1
    return lane * 16 + crc32(key.encode()) % 16, replace(envelope, **changes)


async def put(
    connection: AsyncConnection,
    *messages: tuple[int, Envelope],
    destination: str = "comments",
) -> list[str]:
    """Write these rows; their ids."""
    for bucket, envelope in messages:
        await connection.execute(insert(outbox).values(**row(bucket, envelope, destination)))
    return [envelope.id for _, envelope in messages]


async def commit(
    engine: AsyncEngine, *messages: tuple[int, Envelope], destination: str = "comments"
) -> list[str]:
    """Write these rows in a transaction of their own; their ids."""
    async with engine.begin() as connection:
        return await put(connection, *messages, destination=destination)


def row(bucket: int, envelope: Envelope, destination: str) -> dict[str, Any]:
    """The columns that all tables with whole messages have."""
    return {
        "id": envelope.id,
        "destination": destination,
        "bucket": bucket,
        "aggregatetype": "articles",
        "aggregateid": envelope.key,
        "type": envelope.type,
        "payload": envelope.data.decode(),
        "headers": headers_json(envelope),
        "occurred_at": envelope.time,
    }


@dataclass
class Destination:
    """A transport that answers as `answer` says; everything is DONE unless told otherwise.

    `requests` has the ids of every request, `received` the (key, id) of everything that arrived.
    """

    answer: Callable[[Envelope], Reply] = lambda _: DONE
    refuse: Callable[[Sequence[Envelope]], Delivery | None] = lambda _: None
    requests: list[list[str]] = field(default_factory=list)
    received: list[tuple[str, str]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.requests.append([each.id for each in envelopes])
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        refusal = self.refuse(envelopes)
        if refusal is not None:
            return refusal
        replies = []
        waiting: set[str] = set()
        for each in envelopes:
            if each.key in waiting:
                replies.append(Reply(Outcome.NOT_ATTEMPTED))
                continue
            self.received.append((each.key, each.id))
            replies.append(self.answer(each))
            if replies[-1].outcome in (Outcome.FAILED, Outcome.LOCKED, Outcome.TOO_BUSY):
                waiting.add(each.key)
        return Answered(replies)

    async def aclose(self) -> None:
        """Nothing is open."""

    @property
    def ids(self) -> list[str]:
        """What arrived, in its order."""
        return [id_ for _, id_ in self.received]

    def by_key(self) -> dict[str, list[str]]:
        """What arrived for each key, in its order."""
        result: dict[str, list[str]] = defaultdict(list)
        for key, id_ in self.received:
            result[key].append(id_)
        return dict(result)


def make_relay(
    engine: AsyncEngine,
    transport: Transport | dict[str, Transport],
    *,
    owner: str = "relay-1",
    clock: FakeClock | SystemClock | None = None,
    retry: RetryPolicy = QUICK,
    sink: ReplySink | None = None,
    bell: Bell | None = None,
    is_dead: Callable[[str], bool] = lambda _: False,
    **settings: Any,
) -> Relay:
    """A relay for the destination `comments`, or for those given, without any jitter."""
    transports = transport if isinstance(transport, dict) else {"comments": transport}
    return Relay(
        engine,
        transports,
        owner=owner,
        clock=clock or SystemClock(),
        settings=RelaySettings(retry=retry, **settings),
        sink=sink,
        bell=bell,
        is_dead=is_dead,
        chance=lambda: 0.0,
    )


async def drain(relay: Relay, rounds: int = 200) -> int:
    """Rounds until one settles nothing; how many messages went."""
    total = 0
    for _ in range(rounds):
        settled = await relay.run_once()
        if not settled:
            return total
        total += settled
    raise AssertionError(f"still busy after {rounds} rounds")


async def run_until(relay: Relay, predicate: Callable[[], object], what: str) -> None:
    """Rounds until `predicate()` is true."""

    async def look() -> object:
        await relay.run_once()
        return predicate()

    await until(look, what=what)


async def counts(engine: AsyncEngine) -> dict[str, int]:
    """How many rows each of the relay's tables has."""
    async with engine.connect() as connection:
        return {
            table.name.removeprefix(DEFAULT_TABLES.prefix): (
                await connection.execute(select(func.count()).select_from(table))
            ).scalar_one()
            for table in (outbox, outbox_held, outbox_parked, outbox_dead)
        }


def all_buckets() -> Iterable[int]:
    """The buckets of one destination."""
    return BUCKETS
