"""The making of calls: each in a slot of its own, and cut off at its time.

A call holds no transaction and no connection. What its first transaction stored says who makes it,
and what comes of it is written by a transaction of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from outbox.crashpoints import crashpoint
from outbox.inbox.handling.results import reply_of
from outbox.inbox.outside.call import (
    Answered,
    AnswersLater,
    Call,
    GoesOn,
    NeverKnown,
    NoAnswer,
    NotMade,
    Result,
    outcome_of,
)
from outbox.inbox.outside.delivery import Delivery
from outbox.inbox.outside.finding_out import Certain, Unknowable, Working
from outbox.inbox.outside.rules import START_WITHIN
from outbox.inbox.transactions.in_threads import in_thread
from outbox.replies import Ongoing, Outcome, Reply
from outbox.safe_text import described
from outbox.tracing import Handling, fields_of, tracer_in_use

log = logging.getLogger("outbox.inbox")

MOST_CALLS = 64
"""Calls to the outside that a process makes at once; threads that go on after their time count."""

PATIENCE = 1.0
"""Seconds for which a delivery waits for the calls of its commands, before it answers."""

_CUT_OFF_WITHIN = 0.5
"""Seconds in which a coroutine ends after it was cancelled; else it goes on like a thread."""


Conclude = Callable[[Call, Result, Callable[[], bool]], Awaitable[Reply]]
"""Writes the result of a call, and returns the answer to its command. The last argument says
whether a delivery will give that answer; where none does, it is sent by itself."""


@dataclass(eq=False)
class _Running:
    call: Call
    deliveries: list[Delivery] = field(default_factory=list)
    is_being_written: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_awaited(self) -> bool:
        return any(not each.is_over for each in self.deliveries)

    def give(self, reply: Reply) -> None:
        for delivery in self.deliveries:
            delivery.answers[self.call.id] = reply


class Calls:
    """The calls of one process, at most `most` at once. It belongs to one event loop."""

    def __init__(
        self,
        conclude: Conclude,
        *,
        counted: Callable[[str, float], None],
        monotonic: Callable[[], float],
        most: int = MOST_CALLS,
    ) -> None:
        """`counted` is told of the end of each call: its result in a word, and the seconds since it
        was stored."""
        self.most = most
        self._conclude = conclude
        self._counted = counted
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(most)
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def taken(self) -> int:
        """How many slots are taken up."""
        return len(self._tasks)

    @property
    def free(self) -> int:
        """How many calls can begin."""
        return max(0, self.most - self.taken)

    def begin(self, call: Call, delivery: Delivery) -> None:
        """Make the call, which that delivery waits for unless it is over."""
        running = self._running[call.id] = _Running(call, [delivery])
        task = asyncio.create_task(self._make(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def is_made_here(self, id: str) -> bool:
        """Whether the call of that command is being made."""
        return id in self._running

    def join(self, id: str, delivery: Delivery) -> None:
        """Let the delivery wait for the call of that command, if one is made here."""
        running = self._running.get(id)
        if running is not None and delivery not in running.deliveries:
            running.deliveries.append(delivery)

    async def wait(self, delivery: Delivery, *, until: float, at_most: float) -> None:
        """Wait until the calls that the delivery waits for have come to something, or the patience
        is over at `until`, in the loop's time; where a result is being written, until `at_most`."""
        await self._ended(self._awaited(delivery), until)
        await self._ended([it for it in self._awaited(delivery) if it.is_being_written], at_most)
        delivery.is_over = True

    async def drain(self, *, until: float) -> None:
        """Wait until the calls have ended, or it is `until` in the loop's time. Those that go on
        are given up here: another process takes them over once their time is over."""
        await self._ended(list(self._running.values()), until)
        for running in self._running.values():
            log.warning(
                "a call took too long for the end of the process, and is left to another one",
                extra=fields_of(running.call.arrival.envelope),
            )
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _awaited(self, delivery: Delivery) -> list[_Running]:
        return [it for it in self._running.values() if delivery in it.deliveries]

    async def _ended(self, calls: list[_Running], until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                for running in calls:
                    await running.ended.wait()
        except TimeoutError:
            pass

    async def _make(self, running: _Running) -> None:
        call = running.call
        late: asyncio.Future[Any] | None = None
        has_slot = False
        try:
            try:
                result: Result
                has_slot = await self._take_slot(call)
                if has_slot:
                    result, late = await _result_of(call)
                else:
                    result = NotMade(reply_of(Ongoing()))
                self._count(call, result)
                running.is_being_written = True
                running.give(await self._conclude(call, result, lambda: running.is_awaited))
            finally:
                if self._running.get(call.id) is running:
                    del self._running[call.id]
                running.ended.set()
            if late is not None:
                await asyncio.wait({late})
                if isinstance(result := _judged(call, late), Answered | AnswersLater):
                    self._count(call, result)
                    await self._conclude(call, result, _no_delivery)
        except Exception:
            log.exception("a call ended by an error", extra=fields_of(call.arrival.envelope))
        finally:
            if has_slot:
                self._slots.release()

    def _count(self, call: Call, result: Result) -> None:
        if call.known is None:
            self._counted(outcome_of(result), self._monotonic() - call.began)

    async def _take_slot(self, call: Call) -> bool:
        left = call.began + START_WITHIN.total_seconds() - self._monotonic()
        if left <= 0:
            return False
        try:
            async with asyncio.timeout(left):
                await self._slots.acquire()
        except TimeoutError:
            return False
        return True


async def _result_of(call: Call) -> tuple[Result, asyncio.Future[Any] | None]:
    """The result; and, where a thread goes on after its time, the rest of it."""
    if call.known is not None:
        return Answered(call.known), None
    crashpoint("outside: after before, before the call")
    outside, seconds = call.outside, call.seconds
    with Handling([call.arrival.envelope], tracer_in_use()):
        function = partial(outside.function, call.arrival.message, call.context)
        work = asyncio.ensure_future(function()) if outside.is_async else in_thread(function)
        try:
            done, _ = await asyncio.wait({work}, timeout=seconds)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not done and outside.is_async:
            work.cancel()
            done, _ = await asyncio.wait({work}, timeout=_CUT_OFF_WITHIN)
    if not done:
        return _late(call, seconds), work
    if work.cancelled():
        return _late(call, seconds), None
    return _judged(call, work), None


def _late(call: Call, seconds: float) -> NoAnswer:
    return NoAnswer(f"{call.outside.name} was not done within {seconds:g} s")


def _judged(call: Call, work: asyncio.Future[Any]) -> Result:
    """What the end of the function means."""
    try:
        value = work.result()
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(f"{call.outside.name} is not async, and returned a coroutine")
        if isinstance(value, Unknowable):
            return NeverKnown(value.reason)
        if isinstance(value, Working):
            return GoesOn(value.stored(), value.note, value.retry_after, value.in_doubt)
        if isinstance(value, Certain):
            return Answered(reply_of(value.refused), is_certain=True)
        reply = reply_of(value, call.reply_type)
    except (Exception, asyncio.CancelledError) as error:
        log.warning(
            "%s ended without an answer",
            call.outside.name,
            exc_info=error,
            extra=fields_of(call.arrival.envelope),
        )
        return NoAnswer(described(error))
    crashpoint("outside: after the call, before its result")
    if reply.is_pending:
        return AnswersLater(reply)
    if reply.outcome in (Outcome.LOCKED, Outcome.ONGOING):
        return NotMade(reply)
    return Answered(reply)


def _no_delivery() -> bool:
    return False
