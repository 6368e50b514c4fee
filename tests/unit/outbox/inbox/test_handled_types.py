"""A message or a reply that would not arrive as it was sent is refused where its class is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

import outbox
from outbox.errors import InvalidMessage
from outbox.inbox.handlers import Handlers
from outbox.inbox.handling.results import reply_of
from outbox.messages import Command, Event, reply_type
from outbox.replies import Done, Outcome, Refused, Reply


@dataclass(frozen=True)
class Balance:
    amount: int


@dataclass(frozen=True)
class Debt(Balance):
    creditor: str = ""


@dataclass(frozen=True)
class Overdraft:
    amount: int


@dataclass(frozen=True)
class Told(Event, type="press.told.v1", key="id"):
    id: str
    what: Balance | Overdraft


@dataclass(frozen=True)
class Ask(Command[Balance | Overdraft], type="bank.ask.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Show(Command[Balance], type="bank.show.v1", key="id"):
    id: str


@dataclass(frozen=True)
class ShowAll(Command[list["Account"]], type="bank.show-all.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Account:
    number: str


class Plain(Event, type="press.plain.v1", key="id"):
    id: str


def handle(session: Session, message: Any, context: Any) -> Any:
    """A handler of anything."""


@pytest.mark.parametrize("how", ["on", "on_list"])
@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Told, "Told would not arrive as .*'what' of Told may be Balance or Overdraft"),
        (Ask, "the reply to Ask: .* it may be Balance or Overdraft"),
        (Plain, "Plain is not a dataclass"),
    ],
)
def test_a_class_is_refused_where_its_handler_is_registered(cls: Any, why: str, how: str) -> None:
    handlers = Handlers("bank")
    register: Callable[[Any], Any] = getattr(handlers, how)(cls)
    with pytest.raises(InvalidMessage, match=why):
        register(handle)
    assert handlers.types == ()


def test_a_reply_may_be_of_a_class_that_stands_further_down() -> None:
    Handlers("bank").on(ShowAll)(handle)
    assert reply_of([Account("7")], reply_type(ShowAll)).value == [{"number": "7"}]
    with pytest.raises(InvalidMessage):
        reply_of([Balance(7)], reply_type(ShowAll))


def test_an_event_is_refused_where_its_route_is_declared() -> None:
    with pytest.raises(InvalidMessage, match="'what' of Told may be Balance or Overdraft"):
        outbox.install(sessionmaker(), source="bank", routes={Told: ["press"]})
    outbox.install(sessionmaker(), source="bank", routes={"press.told.v1": ["press"]})


def test_an_answer_is_written_as_the_value_that_its_command_declares() -> None:
    wanted = Reply(Outcome.DONE, value={"amount": 1})
    assert reply_of(Balance(1), Balance) == reply_of(Done(Balance(1)), Balance) == wanted
    assert reply_of(None, None) == Reply(Outcome.DONE)
    assert reply_of(Refused("no", "x"), Balance).outcome is Outcome.REFUSED


@pytest.mark.parametrize("value", [Debt(1, "a"), Overdraft(1), {"amount": 1}, True, Done(Debt(1))])
def test_an_answer_of_another_type_is_an_error_of_the_handler(value: object) -> None:
    with pytest.raises(InvalidMessage):
        reply_of(value, Balance)
