"""The registration of calls to the outside: what is taken, and what is refused in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.errors import InvalidHandlers, InvalidMessage
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.outside.registration import Begun
from outbox.inbox.transactions.in_threads import refuse_async
from outbox.inbox.transactions.on_loop import refuse_plain
from outbox.messages import Command, Event
from outbox.replies import Refused


@dataclass(frozen=True)
class Receipt:
    number: int


@dataclass(frozen=True)
class Charge(Command[Receipt], type="bank.charge.v1", key="account"):
    account: str


@dataclass(frozen=True)
class Refund(Command[None], type="bank.refund.v1", key="account"):
    account: str


@dataclass(frozen=True)
class Told(Event, type="press.told.v1", key="account"):
    account: str


CONTEXT = Context("id", None, None, 1, "sender", None)


async def charge(command: Charge, context: Context) -> Receipt:
    return Receipt(7)


def charge_plainly(command: Charge, context: Context) -> Receipt:
    return Receipt(7)


async def read_account(session: AsyncSession, command: Charge, context: Context) -> object:
    return {"card": 7}


def read_account_plainly(session: Session, command: Charge, context: Context) -> object:
    return {"card": 7}


async def store(
    session: AsyncSession, command: Charge, reply: Receipt | Refused, context: Context
) -> None: ...


def store_plainly(
    session: Session, command: Charge, reply: Receipt | Refused, context: Context
) -> None: ...


@pytest.fixture
def handlers() -> Handlers:
    return Handlers("bank")


@pytest.mark.parametrize("function", [charge, charge_plainly])
@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        (None, None, refuse_async),
        (None, None, refuse_plain),
        (read_account, store, refuse_plain),
        (read_account_plainly, store_plainly, refuse_async),
    ],
)
def test_a_call_fits_either_database_and_what_is_around_it_its_own(
    handlers: Handlers, function: Any, before: Any, after: Any, rule: Callable[[Any], None]
) -> None:
    handlers.restrict(rule)
    handlers.outside(Charge, keyed=True, before=before, after=after)(function)
    handler = handlers.find("bank.charge.v1")
    assert handler is not None
    assert handler.outside is not None
    assert (handler.outside.seconds, handler.timeout) == (30, None)
    assert handler.outside.promise.key_valid_for == timedelta(hours=24)
    assert handlers.types == ("bank.charge.v1",)


@pytest.mark.parametrize(
    ("options", "rule", "message"),
    [
        (
            {"before": read_account_plainly},
            refuse_plain,
            "read_account_plainly is a plain function",
        ),
        ({"after": store_plainly}, refuse_plain, "async def store_plainly"),
        ({"before": read_account}, refuse_async, "read_account is async"),
        ({"after": store}, refuse_async, "write def store"),
    ],
)
def test_what_does_not_fit_the_database_is_refused_and_told_what_to_write(
    handlers: Handlers, options: dict[str, Any], rule: Callable[[Any], None], message: str
) -> None:
    handlers.restrict(rule)
    with pytest.raises(InvalidHandlers, match=message):
        handlers.outside(Charge, keyed=True, **options)(charge)
    assert handlers.types == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "the timeout of charge is 0"),
        ({"timeout": float("inf")}, "the timeout of charge is inf"),
        ({"timeout": float("nan")}, "the timeout of charge is nan"),
        ({"key_valid_for": timedelta()}, "key_valid_for of charge is 0:00:00"),
        ({"before": charge}, r"cannot be called as \(session, command, context\)"),
        ({"after": read_account}, r"cannot be called as \(session, command, reply, context\)"),
    ],
)
def test_times_and_functions_that_cannot_be_meant_are_refused(
    handlers: Handlers, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidHandlers, match=message):
        handlers.outside(Charge, keyed=True, **options)(charge)


def test_an_event_has_no_call(handlers: Handlers) -> None:
    async def tell(event: Told, context: Context) -> None: ...

    with pytest.raises(InvalidHandlers, match="an event awaits no answer"):
        handlers.outside(cast(type[Command[None]], Told), keyed=True)(tell)


def test_a_call_takes_the_command_that_it_is_registered_for(handlers: Handlers) -> None:
    with pytest.raises(InvalidHandlers, match="declares to take Charge"):
        handlers.outside(cast(type[Command[Receipt]], Refund), keyed=True)(charge)


def context_first(session: AsyncSession, context: Context, command: Charge) -> None: ...
def command_first(command: Charge, session: AsyncSession, context: Context) -> None: ...
def reply_last(
    session: AsyncSession, command: Charge, context: Context, reply: Receipt
) -> None: ...
def command_third(session: AsyncSession, it: object, command: Charge, context: Context) -> None: ...
def call_backwards(context: Context, command: Charge) -> None: ...
def call_with_session(command: Charge, session: Session) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"before": context_first}, r"context_first declares context: Context where it gets the c"),
        ({"before": command_first}, r"command_first\(session, command, context\)"),
        ({"after": reply_last}, r"reply_last\(session, command, reply, context\)"),
        ({"after": command_third}, r"command: Charge where it gets the reply"),
        ({"function": call_backwards}, r"call_backwards\(command, context\)"),
        ({"function": call_with_session}, r"session: Session where it gets the context"),
    ],
)
def test_arguments_in_another_order_are_refused_and_the_right_one_is_told(
    handlers: Handlers, options: dict[str, Any], message: str
) -> None:
    around = {name: it for name, it in options.items() if name != "function"}
    with pytest.raises(InvalidHandlers, match=message):
        handlers.outside(Charge, keyed=True, **around)(options.get("function", charge))
    assert handlers.types == ()


def test_a_handler_whose_arguments_are_in_another_order_is_refused(handlers: Handlers) -> None:
    with pytest.raises(InvalidHandlers, match=r"context_first\(session, message, context\)"):
        handlers.on(Charge)(cast(Any, context_first))


def test_a_command_has_a_handler_or_a_call(handlers: Handlers) -> None:
    handlers.outside(Charge, keyed=True)(charge)
    with pytest.raises(InvalidHandlers, match="has a handler already"):
        handlers.outside(Charge, keyed=True)(charge_plainly)
    with pytest.raises(InvalidHandlers, match="has a handler already"):
        handlers.on(Charge)(cast(Any, read_account_plainly))


def test_the_promise_of_the_provider_has_to_be_given(handlers: Handlers) -> None:
    with pytest.raises(TypeError, match="keyed"):
        handlers.outside(Charge)  # type: ignore[call-arg]  # the mistake


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        ({"card": "7", "limits": [1, 2.5, True]}, '{"card":"7","limits":[1,2.5,true]}'),
        (outbox.Done("x"), '"x"'),
    ],
)
def test_what_before_gives_is_stored_as_json(
    handlers: Handlers, value: object, stored: str | None
) -> None:
    (reply,) = _before(handlers, value)
    assert isinstance(reply, Begun)
    assert reply.before == stored


@pytest.mark.parametrize("value", [(1, 2), {"when": timedelta(1)}, Receipt(7), b"bytes", {1: 2}])
def test_what_would_not_come_back_equal_is_refused(handlers: Handlers, value: object) -> None:
    with pytest.raises(InvalidMessage):
        _before(handlers, value)


def _before(handlers: Handlers, value: object) -> list[outbox.Reply]:
    def before(session: Session, command: Charge, context: Context) -> object:
        return value

    handlers.outside(Charge, keyed=True, before=before)(charge)
    handler = handlers.find("bank.charge.v1")
    assert handler is not None
    return handler.call_plain(Session(), [Charge("a")], [CONTEXT])
