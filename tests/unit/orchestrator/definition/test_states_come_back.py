"""What a saga keeps and learns is read back as it was, or the definition is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Discriminator

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import pivot
from orchestrator.errors import InvalidInput, InvalidSaga
from outbox.messages import Command


@dataclass(frozen=True)
class Refund:
    cents: int


@dataclass(frozen=True)
class Charge:
    cents: int


@dataclass(frozen=True)
class Cash:
    cents: int
    kind: Literal["cash"] = "cash"


@dataclass(frozen=True)
class Cheque:
    cents: int
    kind: Literal["cheque"] = "cheque"


@dataclass(frozen=True)
class Move(Command[None], type="bank.move.v1", key="order"):
    order: str


@dataclass(frozen=True)
class Confused(Command[None], type="bank.confused.v1", key="order"):
    order: str
    payment: Refund | Charge


@dataclass(frozen=True)
class Ask(Command[Refund | Charge], type="bank.ask.v1", key="order"):
    order: str


@dataclass(frozen=True)
class Order:
    id: str
    payment: Refund | Charge


@dataclass(frozen=True)
class Sale:
    id: str
    payment: Annotated[Cash | Cheque, Discriminator("kind")] = Cash(0)
    share: float = 0.0

    def moved(self, _: None) -> Sale:
        return replace(self, share=1)

    def enlarged(self, _: None) -> LargeSale:
        return LargeSale(self.id)


@dataclass(frozen=True)
class LargeSale(Sale):
    pass


def saga(make: Any = Move, state: Any = Sale, on_reply: Any = None) -> Saga[Any]:
    step = pivot("move", lambda it: make(it.id), on_reply=on_reply)
    return Saga(name="pay", version=1, state=state, key=lambda it: it.id, steps=[step])


def confused(state: Any) -> Confused:
    return Confused(state.id, Charge(0))


def test_a_state_that_would_be_read_as_another_one_is_refused() -> None:
    with pytest.raises(InvalidSaga) as raised:
        saga(state=Order)
    assert str(raised.value).startswith(
        "the state of saga 'pay': Order would not arrive as it was sent: the field 'payment' of "
        "Order may be Refund or Charge, and JSON does not tell which it was"
    )
    assert "Discriminator('kind')" in raised.value.next_step


def test_a_command_and_a_reply_that_would_be_read_as_others_are_refused() -> None:
    with pytest.raises(InvalidSaga, match="the action of step 'move': Confused would not arrive"):
        replace(saga(), steps=[pivot("move", confused)])
    with pytest.raises(InvalidSaga, match=r"the reply to step 'move': .* may be Refund or Charge"):
        saga(Ask)


@pytest.mark.parametrize("payment", [Cash(5), Cheque(5)])
def test_a_state_with_a_discriminated_union_is_kept(payment: Cash | Cheque) -> None:
    assert saga().accept(Sale("7", payment)) == "7"


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (LargeSale("7"), "pay v1 runs on Sale, and was given LargeSale"),
        (Sale("7", share=2**53 + 1), r"cannot be kept: .* 'share': it would arrive with"),
    ],
)
def test_a_state_that_is_not_read_as_it_is_is_no_input(state: Sale, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        saga().accept(state)


def test_a_state_of_a_subclass_is_refused_where_the_saga_learns_it() -> None:
    with pytest.raises(InvalidSaga, match="on_reply of step 'move' returns LargeSale"):
        saga(on_reply=Sale.enlarged)
