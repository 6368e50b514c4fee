"""The worker that tries held messages again, key by key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.loops import repeat
from outbox.coordination.progress import Progress
from outbox.crashpoints import crashpoint
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import OutboxError
from outbox.inbox.answering import Receiving
from outbox.replies import Reply
from outbox.retry import OnExhaustion
from outbox.safe_text import described
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.burial import tell_burial
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.transports.brokers.held.policy import (
    BEHIND,
    GONE,
    Behind,
    GiveUp,
    Gone,
    HeldPolicy,
    Rest,
    Verdict,
    exhausted,
    judge,
    raised,
    unreadable,
)
from outbox.transports.brokers.held.rows import HeldRow, as_read
from outbox.transports.brokers.held.table import Sessions, reading_of, store_of
from outbox.wire.envelope import Envelope

log = logging.getLogger("outbox.brokers")

_BESIDE_ANOTHER = 0.05
"""Seconds."""

ReadPacket = Callable[[Packet, str], Envelope | None]
"""Reads a packet of that queue, and verifies who sent it. None where it turns out to have no
receiver, and is to go. Raises OutboxError."""


@dataclass(frozen=True)
class HeldSettings:
    """How a worker goes about it; times are in seconds.

    It works on up to `keys` keys at once, and gives the rest of a key to the inbox in batches of
    `batch`. After `turn` it leaves a key that still goes on to the next round. A key that it took
    is its own for `claim`, which is longer than the inbox may take for a batch; after that another
    worker may take it, as where this one has died. It looks at least every `idle`.
    """

    keys: int = 8
    batch: int = 20
    turn: float = 5.0
    claim: float = 30.0
    idle: float = 2.0


@dataclass(frozen=True)
class _Tried:
    """A row in hand, with its message or the reason why there is none."""

    row: HeldRow
    envelope: Envelope | None
    error: str = ""


class HeldWorker:
    """Tries the held messages of one consumer again, until they are answered or given up.

    Any number of workers may run on one database. A worker claims the first row of a key, for a
    bounded time and in a transaction of its own, and holds no lock while a handler runs. So a
    worker that dies delays its keys by that time, and its attempt counts. One that takes longer is
    harmless: both give the key to the inbox from its first row on, which answers what it took
    already, and keeps the key where the first is still in hand. What a late worker writes about a
    row counts only if no other worker or operator has changed it; a row that was answered goes in
    any case.

    `inbox` is what answers, and `sessions` are its own: an `AnsweringInbox` where commands of sagas
    come. `read` reads a packet that could not be read when it came, once an operator redrives it.
    """

    def __init__(
        self,
        inbox: Receiving,
        sessions: Sessions,
        consumer: str,
        *,
        clock: Clock,
        chance: Callable[[], float],
        read: ReadPacket,
        policy: HeldPolicy | None = None,
        settings: HeldSettings | None = None,
        bell: Bell | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._inbox = inbox
        self._sessions = sessions
        self._store = store_of(sessions, consumer, clock)
        self._reading = reading_of(sessions)
        self._clock = clock
        self._chance = chance
        self._read = read
        self._policy = policy or HeldPolicy()
        self._settings = settings or HeldSettings()
        self._bell = bell or Bell()
        self._progress = progress or Progress(clock.monotonic)
        self._is_stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish the batches in hand, and return."""
        self._is_stopping = False
        watching = asyncio.create_task(self._watch(stop))
        try:
            await repeat(stop, self._step, "try held messages", self._progress, self._bell)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._is_stopping = True
        self._bell.ring()

    async def _step(self) -> float:
        async with self._reading.connect() as connection:
            due = await self._store.next_due(connection)
        if due is None or due > 0:
            return self._settings.idle if due is None else min(due, self._settings.idle)
        # What is due and was not to be had is in the hands of another worker that begins with it.
        return 0.0 if await self.run_once() else _BESIDE_ANOTHER

    async def run_once(self) -> int:
        """Work once on each key that is due, up to `settings.keys` of them; returns how many. The
        database's errors pass through, after all keys had their turn."""
        async with self._sessions.begin() as session:
            heads = await self._store.claim_due(session, self._settings.keys, self._settings.claim)
        ends = await asyncio.gather(*map(self._work, heads), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return len(heads)

    async def _work(self, head: HeldRow) -> None:
        """Go on with the key of this row, as long as it is its turn."""
        key = head.order_key
        if key is None:
            await self._read_again(head)
            return
        until = self._clock.monotonic() + self._settings.turn
        batch: Sequence[HeldRow] = [head]
        while batch:
            tried = _readable(batch)
            try:
                verdicts = await self._try(tried)
            except Exception as error:
                if trouble_in_statement(error) is not Trouble.OWN:
                    await self._give_back(batch[0])
                    raise
                log.exception("the held message %s could not be tried", batch[0].message_id)
                rest = [BEHIND] * (len(tried) - 1)
                verdicts = [raised(batch[0], described(error), self._policy, self._chance()), *rest]
            crashpoint("held: after handling, before settle")
            goes_on = not self._is_stopping and self._clock.monotonic() < until
            async with self._sessions.begin() as session:
                batch = await self._settle(session, key, tried, verdicts, goes_on)
            crashpoint("held: after settle")

    async def _try(self, tried: Sequence[_Tried]) -> Sequence[Verdict]:
        head = tried[0]
        if head.envelope is None:
            return [unreadable(head.row, head.error)]
        if (verdict := exhausted(head.row, self._policy)) is not None:
            return [verdict, *[BEHIND] * (len(tried) - 1)]
        envelopes = [it.envelope for it in tried if it.envelope is not None]
        replies: Sequence[Reply] = await self._inbox.receive(envelopes)
        return [
            judge(it.row, reply, self._policy, self._chance())
            for it, reply in zip(tried, replies, strict=True)
        ]

    async def _settle(
        self,
        session: AsyncSession,
        key: LaneKey,
        tried: Sequence[_Tried],
        verdicts: Sequence[Verdict],
        goes_on: bool,
    ) -> Sequence[HeldRow]:
        """Write the verdicts on rows of the key; returns those that come next, if it goes on."""
        await self._store.lock(session, [key])
        gone = [it.row for it, is_gone in zip(tried, verdicts, strict=True) if is_gone == GONE]
        await self._store.remove(session, gone)
        for each, verdict in zip(tried, verdicts, strict=True):
            match verdict:
                case Gone():
                    pass
                case Rest():
                    goes_on = False
                    await self._store.rest(session, each.row, verdict)
                case GiveUp():
                    await self._give_up(session, each, verdict)
                case Behind() if each is tried[0]:
                    # The claim has counted an attempt that did not take place.
                    goes_on = False
                    uncounted = Rest(each.row.attempts, 0.0, each.row.last_error)
                    await self._store.rest(session, each.row, uncounted)
                case Behind():
                    pass
        await self._store.appoint(session, [key])
        if not goes_on:
            return ()
        # The inbox goes on with a key behind what it rejected, and a block must come before.
        one_by_one = self._policy.on_exhaustion is OnExhaustion.BLOCK_KEY
        most = 1 if one_by_one else self._settings.batch
        return await self._store.claim_next(session, key, most, self._settings.claim)

    async def _give_up(self, session: AsyncSession, each: _Tried, verdict: GiveUp) -> None:
        if not await self._store.give_up(session, each.row, verdict):
            return
        log.error(
            "the held message %s is %s after %d attempts: %s",
            each.row.message_id,
            verdict.state,
            verdict.attempts,
            verdict.reason,
        )
        if verdict.must_tell and each.envelope is not None:
            await session.run_sync(tell_burial, each.envelope, verdict.reason)

    async def _give_back(self, head: HeldRow) -> None:
        """Take back the claim of a row that was not tried, since the database is in trouble. Where
        that fails too, the claim ends by itself."""
        resting = Rest(head.attempts, self._policy.retry.first, head.last_error)
        with contextlib.suppress(Exception):
            async with self._sessions.begin() as session:
                await self._store.rest(session, head, resting)

    async def _read_again(self, row: HeldRow) -> None:
        """Let a packet that can be read now take its place behind the others of its key."""
        try:
            envelope = self._read(row.packet, row.queue)
        except OutboxError as error:
            verdict = unreadable(row, described(error))
            async with self._sessions.begin() as session:
                await self._store.give_up(session, row, verdict)
            return
        async with self._sessions.begin() as session:
            # What an operator dropped meanwhile does not come back.
            if await self._store.take(session, row) and envelope is not None:
                packet = as_read(row.packet, envelope)
                item = ToHold(row.queue, packet, envelope, row.last_error)
                await self._store.hold(session, [item], [0.0])


def _readable(rows: Sequence[HeldRow]) -> Sequence[_Tried]:
    """The rows up to the first that cannot be read; that one alone, if it is the first."""
    tried: list[_Tried] = []
    for row in rows:
        try:
            tried.append(_Tried(row, row.envelope()))
        except OutboxError as error:
            return tried or [_Tried(row, None, described(error))]
    return tried
