"""What each test of the contract stands on: a scripted handling end, and deliveries that are looked
at."""

from __future__ import annotations

import asyncio
from asyncio import Task
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.testing.transport_contract.line import Confirms, Connect, Features, Line, Settled
from outbox.transports.base import Accepted, Answered, Delivery, Unacceptable, Unreachable
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

IN_TIME = 10.0
"""Seconds within which a delivery must have ended, and what was accepted must have arrived."""

USUAL = 4.0
"""The timeout of a transport whose other side answers."""

SHORT = 0.2
"""The timeout of a transport that is about to wait in vain."""

_TIME = datetime(2030, 1, 31, 12, 0, 0, 123456, UTC)


class BrokenPromise(AssertionError):
    """A transport did not do what every transport promises, or what this one declares."""


def demand(holds: bool, otherwise: str) -> None:
    """Raises BrokenPromise with that sentence unless it holds."""
    if not holds:
        raise BrokenPromise(otherwise)


def an_id(number: int) -> str:
    """The id of that number, the same each time."""
    return compose(1_900_000_000_000 + number, number)


def plain(number: int, **changes: Any) -> Envelope:
    """A command whose id and key follow from the number, with these fields in place of its own."""
    envelope = Envelope(
        id=an_id(number),
        source="orchestrator",
        type="rooms.hold-room.v1",
        key=f"room-{number}",
        time=_TIME,
        data=b'{"number":%d}' % number,
    )
    return replace(envelope, **changes)


def some(count: int, first: int = 0, **changes: Any) -> list[Envelope]:
    """So many envelopes, with these fields in place of their own."""
    return [plain(first + number, **changes) for number in range(count)]


def with_every_field(number: int) -> Envelope:
    """An undo that uses all that an envelope can have."""
    return plain(
        number,
        data='{"text":["ü",1.5,null,{"deep":true}]}'.encode(),
        key="Zimmer 7 / ü",
        correlation=an_id(9001),
        causation=an_id(9002),
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        reply_to="orchestrator",
        undoes=(an_id(9003), an_id(9004)),
        expires=_TIME + timedelta(hours=1),
        due=_TIME - timedelta(seconds=1),
        run_number=an_id(9005),
    )


Script = Callable[[Sequence[Envelope], EndedSagas | None], Awaitable[Sequence[Reply]]]


async def _done(envelopes: Sequence[Envelope], _: EndedSagas | None) -> Sequence[Reply]:
    return [Reply(Outcome.DONE, value=each.id) for each in envelopes]


@dataclass
class HandlingEnd:
    """Stands where an inbox stands: notes what arrives, and answers as it is told."""

    script: Script = _done
    arrived: list[Envelope] = field(default_factory=list)
    """In its order; without what was only attempted, by a script that raised."""
    statements: list[EndedSagas | None] = field(default_factory=list)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> Sequence[Reply]:
        """What the script says."""
        self.statements.append(settled)
        replies = await self.script(envelopes, settled)
        async with self._changed:
            self.arrived.extend(envelopes)
            self._changed.notify_all()
        return replies

    def hang(self) -> asyncio.Event:
        """Hang from now on, until the line is over; the event tells that it was called."""
        begun = asyncio.Event()

        async def hang(*_: object) -> Sequence[Reply]:
            begun.set()
            await self.is_over.wait()
            raise ConnectionError("the handling end was silent, as the test wants it")

        self.script = hang
        return begun

    def answer(self, script: Script = _done) -> None:
        """Follow this script from now on."""
        self.script = script

    async def until(self, ids: Sequence[str], among: Sequence[str] | None = None) -> None:
        """Wait for all these, in what arrived or in a list that the script fills. Raises
        BrokenPromise where they do not come."""

        def missing() -> set[str]:
            return {*ids} - ({it.id for it in self.arrived} if among is None else {*among})

        try:
            async with asyncio.timeout(IN_TIME), self._changed:
                await self._changed.wait_for(lambda: not missing())
        except TimeoutError:
            gone = missing()
            raise BrokenPromise(
                f"{len(gone)} of {len(ids)} messages were confirmed and did not arrive within "
                f"{IN_TIME:g} s, among them {min(gone)}"
            ) from None


@dataclass
class Bench:
    """One line under test."""

    features: Features
    line: Line
    end: HandlingEnd

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """What the transport says; BrokenPromise where it raises, or does not say anything."""
        try:
            async with asyncio.timeout(IN_TIME):
                delivery = await self.line.transport.deliver(envelopes)
        except TimeoutError:
            raise BrokenPromise(f"deliver() did not return within {IN_TIME:g} s") from None
        except Exception as error:
            raise BrokenPromise(
                f"deliver() raised {error!r}; what the network or the other side does is its answer"
            ) from error
        declared = Answered | Accepted | Unacceptable | Unreachable
        demand(isinstance(delivery, declared), f"deliver() returned {delivery!r}")
        return delivery

    async def confirmed(self, envelopes: Sequence[Envelope]) -> None:
        """Deliver them; they are confirmed as the transport declares, and arrive."""
        if self.features.confirms is Confirms.BY_TAKING:
            await self._taken(envelopes)
        else:
            self.is_confirmed(envelopes, await self.deliver(envelopes))
        await self.end.until([each.id for each in envelopes])

    async def confirmed_again(self, envelopes: Sequence[Envelope]) -> None:
        """The same to a side that has just come back: a way that must connect anew may need more
        than one short delivery for it, as a relay would make."""
        loop = asyncio.get_running_loop()
        end = loop.time() + IN_TIME
        delivery = await self.deliver(envelopes)
        while isinstance(delivery, Unreachable) and loop.time() < end:
            delivery = await self.deliver(envelopes)
        self.is_confirmed(envelopes, delivery)
        await self.end.until([each.id for each in envelopes])

    async def _taken(self, envelopes: Sequence[Envelope]) -> None:
        """Deliver them, and again what did not fit, as a relay does."""
        left = list(envelopes)
        while left:
            delivery = await self.deliver(left)
            if not isinstance(delivery, Answered):
                raise BrokenPromise(f"it said {delivery!r} in place of Answered")
            pairs = list(zip(left, delivery.replies, strict=True))
            again = [it for it, reply in pairs if reply.outcome is Outcome.NOT_ATTEMPTED]
            demand(len(again) < len(left), "of a whole delivery nothing was attempted")
            taken = [(it, reply) for it, reply in pairs if it not in again]
            self.is_confirmed([it for it, _ in taken], Answered([reply for _, reply in taken]))
            left = again

    def is_confirmed(self, envelopes: Sequence[Envelope], delivery: Delivery) -> None:
        """Demand that this is how such a transport confirms these."""
        if self.features.confirms is Confirms.BY_ACCEPTING:
            demand(isinstance(delivery, Accepted), f"it said {delivery!r} in place of Accepted()")
            return
        if not isinstance(delivery, Answered):
            raise BrokenPromise(f"it said {delivery!r} in place of Answered")
        if self.features.confirms is Confirms.BY_TAKING:
            outcomes = {reply.outcome for reply in delivery.replies}
            demand(outcomes <= {Outcome.DONE}, f"events were taken, and it said {outcomes}")
            return
        values = [reply.value for reply in delivery.replies]
        asked = [each.id for each in envelopes]
        demand(values == asked, f"the replies to {asked} are those to {values}")

    async def unreachable(self, envelopes: Sequence[Envelope]) -> Unreachable:
        """Deliver them; there is no answer, and a reason."""
        delivery = await self.deliver(envelopes)
        if not isinstance(delivery, Unreachable):
            raise BrokenPromise(f"without an answer it said {delivery!r}")
        demand(bool(delivery.reason), "Unreachable has no reason, which the operator would read")
        return delivery

    async def unacceptable(self, envelopes: Sequence[Envelope], why: str) -> None:
        """Deliver them; they are refused as a whole, and nothing of them arrives."""
        delivery = await self.deliver(envelopes)
        if not isinstance(delivery, Unacceptable):
            raise BrokenPromise(f"{why} must be Unacceptable, and it said {delivery!r}")
        demand(bool(delivery.reason), "Unacceptable has no reason, which the operator would read")


@asynccontextmanager
async def under_way(delivering: Coroutine[Any, Any, Delivery]) -> AsyncIterator[Task[Delivery]]:
    """A delivery that goes on beside the block, and is over with it."""
    task = asyncio.create_task(delivering)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=IN_TIME)
        if task.done() and not task.cancelled():
            task.exception()  # what it raised was told in the block, or does not count any more


@asynccontextmanager
async def bench(
    features: Features,
    connect: Connect,
    *,
    timeout: float = USUAL,
    settled: Settled | None = None,
) -> AsyncIterator[Bench]:
    """A line and its handling end; afterwards no task of them is left."""
    before, end = asyncio.all_tasks(), HandlingEnd()
    async with connect(end.receive, timeout=timeout, settled=settled) as line:
        try:
            yield Bench(features, line, end)
        finally:
            end.is_over.set()
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=IN_TIME)
    demand(not left, f"after aclose() tasks go on: {sorted(map(str, left))}")
