"""The making of calls: when one begins, when it is cut off, and what its end means."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import outbox
from outbox.inbox.handlers import Context
from outbox.inbox.outside.call import Answered, AnswersLater, Call, NoAnswer, NotMade, Result
from outbox.inbox.outside.calling import Calls
from outbox.inbox.outside.delivery import Delivery
from outbox.inbox.outside.registration import outside_of
from outbox.inbox.outside.rules import START_WITHIN, Attempt
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from tests.support.outbox.dictionary_inbox import arriving
from tests.support.outbox.inboxes import Book, Booked, Names
from tests.support.processes.waiting import until


class Desk:
    """Calls whose results are kept in a list."""

    def __init__(self, *, most: int = 2) -> None:
        self.clock = FakeClock()
        self.results: list[Result] = []
        self.counted: list[tuple[str, float]] = []
        self.calls = Calls(
            self._conclude,
            counted=lambda result, seconds: self.counted.append((result, seconds)),
            monotonic=self.clock.monotonic,
            most=most,
        )
        self._names = Names()

    async def _conclude(self, call: Call, result: Result, is_awaited: Callable[[], bool]) -> Reply:
        self.results.append(result)
        return Reply(Outcome.DONE)

    def begin(self, function: Callable[..., Any], *, timeout: float = 30.0) -> Delivery:
        """Call that function, as of now."""
        outside = outside_of(
            Book,
            function,
            timeout=timeout,
            keyed=True,
            key_valid_for=timedelta(hours=1),
            before=None,
            after=None,
        )
        arrival = arriving(self._names(), Book("a"))
        id = arrival.envelope.id
        context = Context(id, None, None, 1, "sender", None)
        delivery = Delivery()
        call = Call(arrival, outside, context, Attempt("one", 1), self.clock.monotonic())
        self.calls.begin(call, delivery)
        return delivery

    async def ended(self) -> Result:
        """The only result, once there is nothing more to come."""
        await until(lambda: self.calls.taken == 0, what="the call has ended")
        (result,) = self.results
        return result


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def disguised(command: Book, context: Context) -> Booked:
    return Booked(1)


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (Booked(1), Answered),
        (outbox.Done(Booked(1)), Answered),
        (outbox.Refused("no", "no money"), Answered),
        (outbox.Pending(), AnswersLater),
        (outbox.Locked("it"), NotMade),
        (outbox.Ongoing(), NotMade),
        ("no receipt", NoAnswer),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_function_gives_says_what_happened(
    desk: Desk, given: object, result: type[Result], is_async: bool
) -> None:
    async def ask(command: Book, context: Context) -> Any:
        return given

    def ask_plainly(command: Book, context: Context) -> Any:
        return given

    desk.begin(ask if is_async else ask_plainly)
    assert isinstance(await desk.ended(), result)


async def test_a_plain_function_that_is_async_in_disguise_gives_no_answer(desk: Desk) -> None:
    def ask(command: Book, context: Context) -> Any:
        return disguised(command, context)

    desk.begin(ask)
    result = await desk.ended()
    assert isinstance(result, NoAnswer)
    assert "is not async, and returned a coroutine" in result.error


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_function_whose_next_finds_nothing_gives_no_answer_and_frees_its_slot(
    desk: Desk, is_async: bool
) -> None:
    async def ask(command: Book, context: Context) -> Booked:
        return next(iter([]))

    def ask_plainly(command: Book, context: Context) -> Booked:
        return next(iter([]))

    desk.begin(ask if is_async else ask_plainly)
    result = await desk.ended()
    assert isinstance(result, NoAnswer)
    assert "StopIteration" in result.error


async def test_a_plain_function_that_ends_its_thread_ends_nothing_else(desk: Desk) -> None:
    def ask(command: Book, context: Context) -> Booked:
        sys.exit("no more")

    desk.begin(ask)
    result = await desk.ended()
    assert isinstance(result, NoAnswer)
    assert "SystemExit" in result.error


async def test_a_call_that_could_not_begin_in_time_is_not_made(desk: Desk) -> None:
    asked: list[Book] = []

    async def ask(command: Book, context: Context) -> Booked:
        asked.append(command)
        return Booked(1)

    desk.begin(ask)
    # The transaction that stored it took so long.
    desk.clock.advance(START_WITHIN.total_seconds())
    assert isinstance(await desk.ended(), NotMade)
    assert asked == []


async def test_a_call_that_finds_no_slot_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("outbox.inbox.outside.calling.START_WITHIN", timedelta(seconds=0.05))
    desk = Desk(most=1)
    go_on = asyncio.Event()

    async def ask(command: Book, context: Context) -> Booked:
        await go_on.wait()
        return Booked(1)

    desk.begin(ask)
    assert desk.calls.free == 0
    desk.begin(ask)
    await until(lambda: desk.results, what="the second one is not made")
    assert isinstance(desk.results[0], NotMade)
    go_on.set()
    await until(lambda: desk.calls.taken == 0, what="the first one has ended")
    assert isinstance(desk.results[1], Answered)


async def test_a_coroutine_that_does_not_let_itself_be_cut_off_goes_on_like_a_thread(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.inbox.outside.calling._CUT_OFF_WITHIN", 0.01)
    go_on = asyncio.Event()

    async def ask(command: Book, context: Context) -> Booked:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        return Booked(1)

    desk.begin(ask, timeout=0.01)
    await until(lambda: desk.results, what="its time is over")
    assert isinstance(desk.results[0], NoAnswer)
    assert desk.calls.free == 1
    go_on.set()
    await until(lambda: desk.calls.taken == 0, what="it has ended")
    assert [type(it) for it in desk.results] == [NoAnswer, Answered]
    assert [it for it, _ in desk.counted] == ["no-answer", "done"]


async def test_the_late_failure_of_a_thread_changes_nothing_more(desk: Desk) -> None:
    go_on = threading.Event()

    def ask(command: Book, context: Context) -> Booked:
        go_on.wait(30)
        raise ConnectionError("reset")

    desk.begin(ask, timeout=0.01)
    await until(lambda: desk.results, what="its time is over")
    go_on.set()
    result = await desk.ended()
    assert isinstance(result, NoAnswer)
    assert "was not done within 0.01 s" in result.error


async def test_a_delivery_gets_what_its_call_came_to(desk: Desk) -> None:
    delivery = desk.begin(disguised)
    now = asyncio.get_running_loop().time()
    await desk.calls.wait(delivery, until=now + 10, at_most=now + 10)
    assert delivery.is_over
    assert [it.outcome for it in delivery.answers.values()] == [Outcome.DONE]
