from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.errors import InvalidHandlers, InvalidMessage
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.handling.results import reply_of
from outbox.messages import Command, Event, Message
from outbox.replies import Done, Locked, Ongoing, Outcome, Refused, Reply

CONTEXT = Context("id", None, None, 1, "sender", None)


@dataclass(frozen=True)
class Balance:
    amount: int


@dataclass(frozen=True)
class Ask(Command[Balance], type="bank.ask.v2", key="account"):
    account: str


@dataclass(frozen=True)
class Told(Event, type="press.told.v1", key="account"):
    account: str


async def call(handlers: Handlers, *messages: Message) -> list[Reply]:
    """What the handler of the first message's type answers to all of them."""
    handler = handlers.find(str(messages[0].message_type))
    assert handler is not None
    # run_sync is all that a handler's call needs of its session.
    async with AsyncSession() as session:
        return await handler(session, messages, [CONTEXT] * len(messages))


# --- Calling -----------------------------------------------------------------------------------


async def test_an_async_handler_gets_session_message_and_context() -> None:
    handlers, seen = Handlers("bank"), []

    @handlers.on(Ask)
    async def ask(session: AsyncSession, command: Ask, context: Context) -> Balance:
        seen.append((type(session), command, context))
        return Balance(7)

    assert await call(handlers, Ask("a")) == [Reply(Outcome.DONE, value={"amount": 7})]
    assert seen == [(AsyncSession, Ask("a"), CONTEXT)]


async def test_a_plain_handler_gets_a_plain_session() -> None:
    handlers, seen = Handlers("bank"), []

    @handlers.on(Ask)
    def ask(session: Session, command: Ask, context: Context) -> Balance:
        seen.append(type(session))
        return Balance(7)

    assert await call(handlers, Ask("a")) == [Reply(Outcome.DONE, value={"amount": 7})]
    assert seen == [Session]


async def test_an_object_with_an_async_call_is_a_handler_too() -> None:
    class Clerk:
        async def __call__(self, session: AsyncSession, command: Ask, context: Context) -> Balance:
            return Balance(8)

    handlers = Handlers("bank")
    handlers.on(Ask)(Clerk())
    assert await call(handlers, Ask("a")) == [Reply(Outcome.DONE, value={"amount": 8})]


async def test_a_partial_function_is_a_handler_too() -> None:
    async def ask(amount: int, session: AsyncSession, command: Ask, context: Context) -> Balance:
        return Balance(amount)

    handlers = Handlers("bank")
    handlers.on(Ask)(functools.partial(ask, 9))
    assert await call(handlers, Ask("a")) == [Reply(Outcome.DONE, value={"amount": 9})]


async def test_a_handler_that_is_async_in_disguise_is_told_so() -> None:
    async def ask(session: Any, command: Ask, context: Context) -> Balance:
        return Balance(1)

    handlers = Handlers("bank")

    def disguised(session: Session, command: Ask, context: Context) -> Any:
        return ask(session, command, context)

    handlers.on(Ask)(disguised)
    with pytest.raises(TypeError, match="is not async, and returned a coroutine"):
        await call(handlers, Ask("a"))


async def test_a_list_handler_answers_each_message() -> None:
    handlers = Handlers("bank")

    @handlers.on_list(Ask)
    async def ask(
        session: AsyncSession, commands: Sequence[Ask], contexts: Sequence[Context]
    ) -> list[Balance | Refused]:
        return [
            Balance(1) if command.account == "a" else Refused("no", "x") for command in commands
        ]

    assert await call(handlers, Ask("a"), Ask("b")) == [
        Reply(Outcome.DONE, value={"amount": 1}),
        Reply(Outcome.REFUSED, code="no", reason="x"),
    ]


@pytest.mark.parametrize("results", [[Balance(1)], Balance(1), None, "ab"])
async def test_a_list_handler_must_return_one_result_for_each_message(results: Any) -> None:
    handlers = Handlers("bank")

    @handlers.on_list(Ask)
    def ask(session: Session, commands: Sequence[Ask], contexts: Sequence[Context]) -> Any:
        return results

    if results == "ab":
        # Two characters are two values, but they are no two balances.
        with pytest.raises(InvalidMessage, match="the value str does not fit its declaration"):
            await call(handlers, Ask("a"), Ask("b"))
    else:
        with pytest.raises(TypeError, match="one result for each of 2 messages"):
            await call(handlers, Ask("a"), Ask("b"))


# --- Results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        (None, Reply(Outcome.DONE)),
        (Balance(1), Reply(Outcome.DONE, value={"amount": 1})),
        (Done(Balance(2)), Reply(Outcome.DONE, value={"amount": 2})),
        (Done(None), Reply(Outcome.DONE)),
        (0, Reply(Outcome.DONE, value=0)),
        (Refused("held", "a hold"), Reply(Outcome.REFUSED, code="held", reason="a hold")),
        (Locked("saga 7"), Reply(Outcome.LOCKED, code="locked", reason="saga 7")),
        (Ongoing(3), Reply(Outcome.ONGOING, code="ongoing", retry_after=3.0)),
        (Ongoing(-3), Reply(Outcome.ONGOING, code="ongoing", retry_after=0.0)),
        (Ongoing(timedelta(-3)), Reply(Outcome.ONGOING, code="ongoing", retry_after=0.0)),
    ],
)
def test_each_result_has_its_reply(result: object, reply: Reply) -> None:
    assert reply_of(result) == reply


@pytest.mark.parametrize("value", [object(), math.nan, "\0", Done(object())])
def test_a_value_that_cannot_travel_is_an_error(value: object) -> None:
    with pytest.raises(InvalidMessage):
        reply_of(value)


def test_a_refusal_without_words_is_an_error() -> None:
    with pytest.raises(TypeError, match="are texts"):
        reply_of(Refused("no", None))  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("pause", [math.nan, math.inf, -math.inf, "1", None])
def test_a_pause_that_is_no_number_of_seconds_is_an_error(pause: Any) -> None:
    # The sender could read no answer of the whole request.
    with pytest.raises(TypeError, match="retry_after is a number of seconds"):
        reply_of(Ongoing(pause))


@pytest.mark.parametrize("result", [Refused("no", "x"), Locked("x"), Ongoing()])
async def test_no_handler_can_say_no_to_an_event(result: object) -> None:
    handlers = Handlers("bank")

    @handlers.on(Told)
    def told(session: Session, event: Told, context: Context) -> Any:
        return result

    with pytest.raises(TypeError, match="a fact and cannot be refused"):
        await call(handlers, Told("a"))


async def test_what_a_handler_of_an_event_returns_is_no_answer() -> None:
    handlers = Handlers("bank")

    @handlers.on(Told)
    def told(session: Session, event: Told, context: Context) -> Any:
        return object()

    assert await call(handlers, Told("a")) == [Reply(Outcome.DONE)]


# --- Registering -------------------------------------------------------------------------------


def _nothing(session: Any, message: Any, context: Context) -> None:
    pass


def test_a_type_has_one_handler() -> None:
    handlers = Handlers("bank")
    handlers.on(Told)(_nothing)
    with pytest.raises(InvalidHandlers, match=r"press\.told\.v1 has a handler already: _nothing"):
        handlers.on(Told)(_nothing)


def test_a_function_of_another_signature_is_refused() -> None:
    handlers = Handlers("bank")
    with pytest.raises(InvalidHandlers, match=r"cannot be called as \(session, message, context\)"):
        handlers.on(Told)(lambda message: None)  # type: ignore[arg-type, misc]  # the mistake
    with pytest.raises(InvalidHandlers, match="contexts"):
        handlers.on_list(Told)(lambda session: [])  # type: ignore[arg-type, misc]  # the mistake


def test_a_function_for_another_message_is_refused() -> None:
    handlers = Handlers("bank")

    def ask(session: Session, command: Ask, context: Context) -> None:
        pass

    with pytest.raises(InvalidHandlers, match="registered for Told and declares to take Ask"):
        handlers.on(Told)(ask)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(InvalidHandlers, match="neither an Event nor a Command"):
        Handlers("bank").on(cast(type[Event], Message))(_nothing)


def test_a_message_without_a_type_is_refused() -> None:
    class Vague(Event):
        pass

    with pytest.raises(InvalidMessage, match="Vague declares no message type"):
        Handlers("bank").on(Vague)(_nothing)


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_a_consumer_has_a_name_of_bounded_length(name: str) -> None:
    with pytest.raises(InvalidHandlers):
        Handlers(name)


def test_the_handled_types_and_versions_can_be_listed() -> None:
    handlers = Handlers("bank")
    handlers.on(Told)(_nothing)

    @handlers.on(Ask)
    def ask(session: Session, command: Ask, context: Context) -> Balance:
        return Balance(0)

    assert handlers.types == ("bank.ask.v2", "press.told.v1")
    assert handlers.versions_of("bank.ask.v3") == ("bank.ask.v2",)
    assert handlers.versions_of("bank.as.v1") == ()
    assert handlers.versions_of("nonsense") == ()


def test_the_type_checker_rejects_a_handler_that_answers_something_else() -> None:
    """Read by mypy: an ignore that nothing needs is an error of its own."""
    handlers = Handlers("bank")

    @handlers.on(Ask)  # type: ignore[arg-type]  # a Command[Balance] is not answered with an int
    async def ask(session: AsyncSession, command: Ask, context: Context) -> int:
        return 1

    assert handlers.find("bank.ask.v2") is not None
