"""The reader of one partition: it reads, lets the inbox handle, and then lets the broker forget.

A packet is done when its effect is committed, or when it stands in the held table. A batch is done
as a whole and only then is the next one read, so that no later packet of a key overtakes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from outbox.crashpoints import crashpoint
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import OutboxError
from outbox.inbox.batches import order_key
from outbox.replies import Reply
from outbox.safe_text import described, fit, told
from outbox.transports.brokers.broker import Broker, BrokerAway, Reading, ReadingLost, Taken
from outbox.transports.brokers.held.holding import Holding, LaneKey, ToHold
from outbox.transports.brokers.packets import unpacked
from outbox.transports.brokers.sorting import Lot, is_failure, lot_of
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger("outbox.brokers")
T = TypeVar("T")

Receive = Callable[[Sequence[Envelope], EndedSagas | None], Awaitable[Sequence[Reply]]]
"""The inbox: one answer for each envelope, in their order."""

Unpack = Callable[[Taken], tuple[Envelope, EndedSagas | None] | None]
"""Reads a packet; None where it is for another receiver. Raises OutboxError where it cannot be read
or believed."""

BATCH = 100
WAIT = 5.0
"""Seconds for which a broker is asked to wait for a packet."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with_stop = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({with_stop}, timeout=seconds)
    finally:
        with_stop.cancel()


async def _unless(stop: asyncio.Event, asked: Awaitable[T]) -> T | None:
    """What the broker gives, or None where `stop` comes first: what was read meanwhile is read
    again."""
    task = asyncio.ensure_future(asked)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stopping.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Unless(Protocol):
    """Waits for what a broker gives, or for `stop`, whichever comes first."""

    async def __call__(self, stop: asyncio.Event, asked: Awaitable[T], /) -> T | None:
        """None where `stop` came first."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How a reader waits: `rest` for so many seconds, or until `stop` is set; `unless` for what a
    broker gives, or until `stop` is set."""

    rest: Callable[[asyncio.Event, float], Awaitable[None]] = _rest
    unless: Unless = _unless


@dataclass(frozen=True, slots=True)
class _Item:
    taken: Taken
    envelope: Envelope
    statement: EndedSagas | None

    @property
    def key(self) -> LaneKey:
        return order_key(self.envelope)


@dataclass
class Counts:
    """What a consumer has done with packets since its process began."""

    handled: int = 0
    held: int = 0
    dead: int = 0
    again: int = 0


@dataclass(frozen=True)
class PartitionReader:
    """The reader of a partition.

    Without `holding` nothing is set aside: what failed, or cannot be read, is tried again in its
    place, and holds up the partition. `room` is entered for each attempt, so that not all are
    handled at once. `may_read` tells whether the partition is still this process's. `unpack` reads
    packets of others, which are not signed by `keys`.
    """

    broker: Broker
    queue: str
    partition: int
    receive: Receive
    keys: Keyring | None
    holding: Holding | None = None
    may_read: Callable[[], bool] = lambda: True
    room: AbstractAsyncContextManager[object] = field(default_factory=nullcontext)
    batch: int = BATCH
    counts: Counts = field(default_factory=Counts)
    waits: Waits = field(default_factory=Waits)
    unpack: Unpack | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set, or the partition is no longer this process's. Trouble with the
        broker or the database is logged and waited out."""
        failures, said = 0, ""
        while not stop.is_set() and self.may_read():
            try:
                async with self._reading(stop) as reading:
                    while reading is not None and not stop.is_set() and self.may_read():
                        await self._step(reading, stop)
                        failures = 0
            except ReadingLost:
                log.info("another reader has taken %s", self)
                failures += 1
            except (BrokerAway, OutboxError) as error:
                failures += 1
                # The same again is logged ever less often: a broker or topic may be away for days.
                if str(error) != said or failures.bit_count() == 1:
                    log.warning("%s cannot be read, trying again: %s", self, error)
                said = str(error)
            except Exception:
                failures += 1
                log.exception("%s cannot be read, trying again", self)
            if failures:
                await self.waits.rest(stop, _pause(failures))

    def __str__(self) -> str:
        return f"partition {self.partition} of the queue {self.queue}"

    @asynccontextmanager
    async def _reading(self, stop: asyncio.Event) -> AsyncIterator[Reading | None]:
        """None where `stop` comes before the broker has answered."""
        opened: list[Reading] = []

        async def opening() -> None:
            opened.append(await self.broker.open(self.queue, self.partition))

        try:
            await self.waits.unless(stop, opening())
            yield opened[0] if opened else None
        finally:
            # One that came just when this was cancelled is closed, too.
            for reading in opened:
                await reading.aclose()

    async def _step(self, reading: Reading, stop: asyncio.Event) -> None:
        batch = await self.waits.unless(stop, reading.next(self.batch, WAIT))
        if not batch:
            return
        if await self._handle(batch, stop):
            crashpoint("consumer: after handling, before done")
            await reading.done(len(batch))
            crashpoint("consumer: after done")

    async def _handle(self, batch: Sequence[Taken], stop: asyncio.Event) -> bool:
        """Whether all of the batch is done: handled, or set aside."""
        items, unreadable = self._read(batch)
        if unreadable:
            await self._hold(unreadable)
        failures = 0
        while items:
            try:
                async with self.room:
                    items = await self._attempt(items)
            except Exception as error:
                log.warning("%s cannot be handled, trying again: %s", self, error)
                if self.holding is not None and trouble_in_statement(error) is Trouble.OWN:
                    items = await self._one_by_one(items)
            if items:
                failures += 1
                self.counts.again += len(items)
                await self.waits.rest(stop, _pause(failures))
                if stop.is_set() or not self.may_read():
                    return False
        return True

    async def _one_by_one(self, items: Sequence[_Item]) -> list[_Item]:
        """Find the messages for which the inbox raises by a fault of code, and set them aside; the
        rest comes again. The database itself raises the same for all of them."""
        for position, item in enumerate(items):
            try:
                async with self.room:
                    again = await self._attempt([item])
            except Exception as error:
                if trouble_in_statement(error) is not Trouble.OWN:
                    return [*items[position:]]
                log.exception("%s cannot handle a message, which is set aside", self)
                await self._hold([self._to_hold(item, fit(described(error)), attempts=1)])
            else:
                if again:
                    return [*items[position:]]
        return []

    def _read(self, batch: Sequence[Taken]) -> tuple[list[_Item], list[ToHold]]:
        items: list[_Item] = []
        unreadable: list[ToHold] = []
        for taken in batch:
            try:
                read = self._unpacked(taken)
            except Exception as error:
                # Nothing that a packet has in it may end the reading.
                if self.holding is None:
                    raise
                log.error("a packet of %s is set aside unread: %s", self, error)
                unreadable.append(
                    ToHold(self.queue, taken.packet, None, fit(str(error)), is_dead=True)
                )
            else:
                if read is not None:
                    items.append(_Item(taken, *read))
        return items, unreadable

    def _unpacked(self, taken: Taken) -> tuple[Envelope, EndedSagas | None] | None:
        if self.unpack is not None:
            return self.unpack(taken)
        assert self.keys is not None, "packets of a queue are signed"
        return unpacked(taken.packet, self.queue, keys=self.keys)

    async def _attempt(self, items: Sequence[_Item]) -> list[_Item]:
        """Handle these, in the order of each sender's keys; those that are to come again."""
        held = await self._held({item.key for item in items})
        await self._hold(self._following(it for it in items if it.key in held))
        rest: list[_Item] = []
        for source in dict.fromkeys(item.envelope.source for item in items):
            group = [it for it in items if it.envelope.source == source and it.key not in held]
            if group:
                rest += await self._attempt_group(group)
        return rest

    async def _attempt_group(self, group: Sequence[_Item]) -> list[_Item]:
        """The same for messages of one sender, whose last statement covers what the others say."""
        statement = group[-1].statement
        if self.holding is None or not self.holding.is_strict:
            again, _ = await self._answered(group, statement)
            return again
        # The inbox goes on with a key behind what it rejects, and that is to block it first.
        found: list[_Item] = []
        left = group
        while left:
            first = {it.key: it for it in reversed(left)}
            heads = [it for it in left if first[it.key] is it]
            again, held = await self._answered(heads, statement)
            behind = [it for it in left if first[it.key] is not it]
            await self._hold(self._following(it for it in behind if it.key in held))
            waiting = {it.key for it in again}
            found += [*again, *(it for it in behind if it.key in waiting)]
            left = [it for it in behind if it.key not in held and it.key not in waiting]
        return found

    async def _answered(
        self, items: Sequence[_Item], statement: EndedSagas | None
    ) -> tuple[list[_Item], set[LaneKey]]:
        """Let the inbox answer these, and set aside what is to be; those that are to come again,
        and the keys that are held up now."""
        replies = await self.receive([it.envelope for it in items], statement)
        again: list[_Item] = []
        to_hold: list[ToHold] = []
        held: set[LaneKey] = set()
        for item, reply in zip(items, replies, strict=True):
            lot = lot_of(item.envelope, reply)
            if item.key in held:
                to_hold += self._following([item])
            elif lot is Lot.DONE:
                self.counts.handled += 1
            elif lot is Lot.AGAIN or self.holding is None:
                again.append(item)
            elif lot is Lot.DEAD:
                to_hold.append(self._to_hold(item, told(reply), is_dead=True))
                if self.holding.is_strict:
                    held.add(item.key)
            else:
                attempts = int(is_failure(reply))
                to_hold.append(self._to_hold(item, told(reply), attempts=attempts))
                held.add(item.key)
        await self._hold(to_hold)
        return again, held

    def _following(self, items: Iterable[_Item]) -> list[ToHold]:
        return [self._to_hold(it, "its key is held up") for it in items]

    def _to_hold(
        self, item: _Item, error: str, *, attempts: int = 0, is_dead: bool = False
    ) -> ToHold:
        return ToHold(self.queue, item.taken.packet, item.envelope, error, attempts, is_dead)

    async def _held(self, keys: set[LaneKey]) -> set[LaneKey]:
        return await self.holding.held(keys) if self.holding is not None else set()

    async def _hold(self, items: Sequence[ToHold]) -> None:
        if items and self.holding is not None:
            await self.holding.hold(items)
            self.counts.held += len(items)
            self.counts.dead += sum(it.is_dead for it in items)


def _pause(failures: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
