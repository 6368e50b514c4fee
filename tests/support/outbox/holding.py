"""A receiver that holds what it could not handle: its inbox, its held table, and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.errors import UntrustedRequest
from outbox.ids import compose
from outbox.inbox.answering import AnsweringInbox, add_answer
from outbox.inbox.batches import order_key
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.messages import Message
from outbox.replies import Reply
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.tables import inbox_held
from outbox.tables import outbox as outbox_table
from outbox.testing import FakeClock
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.transports.brokers.held.policy import HeldPolicy
from outbox.transports.brokers.held.table import HeldTable, store_of
from outbox.transports.brokers.held.worker import HeldSettings, HeldWorker
from outbox.wire.envelope import Envelope, from_structured, to_structured
from outbox.wire.settled import EndedSagas
from tests.support.outbox.inboxes import START, Bench, Names, Noted, bank, envelope, write_entry

SAGA = compose(1_893_000_000_000, 7)
QUEUE = "bank"
RIGHT = {"sagabox-signature": "right"}
THREE_ATTEMPTS = RetryPolicy(attempts=3)


class Trouble:
    """A handler of `Noted` that fails for the entries in `poison`, and counts its calls."""

    def __init__(self, *poison: str) -> None:
        self.poison = set(poison)
        self.calls: list[str] = []

    def handlers(self) -> Handlers:
        handlers = bank(without=Noted)

        @handlers.on(Noted)
        async def noted(session: Any, event: Noted, context: Context) -> None:
            self.calls.append(event.entry)
            await write_entry(session, event.entry, context.id)
            if event.entry in self.poison:
                raise ValueError(f"{event.entry} is poison")

        return handlers


class Watched:
    """An inbox that notes the batches that it is given."""

    def __init__(self, inbox: AnsweringInbox) -> None:
        self.batches: list[list[str]] = []
        self.ids: list[str] = []
        self._inbox = inbox
        self._changed = asyncio.Event()

    async def given(self, count: int) -> None:
        """Return once it has been given so many messages."""
        async with asyncio.timeout(20):
            while len(self.ids) < count:
                self._changed.clear()
                await self._changed.wait()

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        self.batches.append([orjson.loads(it.data).get("entry", it.type) for it in envelopes])
        self.ids += [it.id for it in envelopes]
        self._changed.set()
        return await self._inbox.receive(envelopes, settled)


class HoldingBench(Bench):
    """The inbox `bank` on a database, with what it holds."""

    def __init__(
        self,
        engine: AsyncEngine,
        handlers: Handlers | None = None,
        *,
        retry: RetryPolicy = THREE_ATTEMPTS,
        on_exhaustion: OnExhaustion = OnExhaustion.DEAD_LETTER_AND_CONTINUE,
        settings: HeldSettings | None = None,
        limits: InboxLimits | None = None,
        clock: FakeClock | None = None,
        peers: Sequence[str] | None = None,
    ) -> None:
        super().__init__(engine, handlers, clock=clock, limits=limits)
        outbox.install(self.sessions, source="bank", routes={}, clock=self.clock, peers=peers)
        self.inbox = Inbox(
            self.handlers, self.sessions, clock=self.clock, limits=limits, told=add_answer
        )
        self.policy = HeldPolicy(retry, on_exhaustion)
        self.settings = settings
        self.names = Names()
        self.watched = Watched(AnsweringInbox(self.inbox, self.sessions))
        self.table = HeldTable(
            self.sessions, "bank", clock=self.clock, chance=lambda: 0.0, policy=self.policy
        )
        self.worker = self.new_worker()

    def new_worker(self) -> HeldWorker:
        """Another worker, as of another process."""
        return HeldWorker(
            self.watched,
            self.sessions,
            "bank",
            clock=self.clock,
            chance=lambda: 0.0,
            read=read_packet,
            policy=self.policy,
            settings=self.settings,
        )

    def new(self, message: Message, **rest: Any) -> Envelope:
        """A new message to this receiver."""
        return envelope(self.names(), message, **rest)

    def note(self, entry: str, account: str = "ada") -> Envelope:
        """A new event to this receiver."""
        return self.new(Noted(account, entry))

    async def hold(self, *envelopes: Envelope, attempts: int = 1) -> None:
        """Hold these messages, of which the first of each key has failed."""
        await self.table.hold([to_hold(it, attempts) for it in envelopes])

    async def held_keys(self, *envelopes: Envelope) -> set[LaneKey]:
        """Those of their keys that are held."""
        return await self.table.held({order_key(it) for it in envelopes})

    async def make_due(self) -> None:
        """Let all rests, and all claims, be over."""
        async with self.sessions.begin() as session:
            long_ago = START - timedelta(days=10_000)
            await session.execute(
                update(inbox_held).where(inbox_held.c.next_at.is_not(None)).values(next_at=long_ago)
            )

    async def work(self, rounds: int = 1) -> None:
        """Rounds of the worker, in each of which all that rests is due."""
        for _ in range(rounds):
            await self.make_due()
            await self.worker.run_once()

    async def pause(self) -> float | None:
        """Seconds until the next attempt; None where none is to come."""
        async with self.sessions() as session:
            return await store_of(self.sessions, "bank", self.clock).next_due(session)

    async def rows(self) -> list[Mapping[str, Any]]:
        """All rows of the held table."""
        async with self.sessions() as session:
            rows = await session.execute(select(inbox_held).order_by(inbox_held.c.seq))
            return [dict(it) for it in rows.mappings()]

    async def standing(self) -> dict[str, tuple[str, int]]:
        """State and attempts of each held message, by its entry."""
        return {entry_of(row["body"]): (row["state"], row["attempts"]) for row in await self.rows()}

    async def sent(self) -> list[dict[str, Any]]:
        """The messages in the outbox: what they say."""
        async with self.sessions() as session:
            rows = await session.execute(
                select(outbox_table.c.destination, outbox_table.c.payload).order_by(
                    outbox_table.c.seq
                )
            )
            return [orjson.loads(payload) | {"to": to} for to, payload in rows]


def to_hold(message: Envelope, attempts: int = 1) -> ToHold:
    """That message as a consumer hands it over."""
    packet = Packet(3, RIGHT, to_structured(message), message.key)
    return ToHold(QUEUE, packet, message, "failed: ValueError: it is poison", attempts)


def unread(body: bytes, headers: Mapping[str, str] | None = None) -> ToHold:
    """A packet that the consumer could not read."""
    packet = Packet(3, headers or {}, body)
    return ToHold(QUEUE, packet, None, "it is not signed", is_dead=True)


def read_packet(packet: Packet, queue: str) -> Envelope:
    """Reads what is rightly signed for this queue."""
    if (packet.headers, queue) != (RIGHT, QUEUE):
        raise UntrustedRequest("it is not signed", next_step="sign it")
    return from_structured(packet.body)


def entry_of(body: bytes) -> str:
    """What the packet is about."""
    try:
        read = from_structured(body)
    except outbox.OutboxError:
        return "unread"
    entry: str = orjson.loads(read.data).get("entry", read.type)
    return entry
