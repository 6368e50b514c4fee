"""Every mistake in a definition that is found when it is made, with what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind, Step, WhenLocked, compensatable, pivot, retriable
from orchestrator.errors import InvalidSaga
from outbox.messages import Command
from tests.support.orchestrator.trips import (
    CHARGE,
    ROOM,
    SEAT,
    TICKET,
    Charge,
    ReleaseRoom,
    ReserveRoom,
    Trip,
)

ORDER = "the order is compensatable steps, at most one pivot, retriable steps"
STEP_NAME = "use 1 to 100 printable characters, no blanks at the ends"
SAGA_NAME = "name it by lower case words with hyphens, such as delete-article, in at most 100"


class Handle:
    """Nothing that JSON could carry."""


@dataclass(frozen=True)
class Holding:
    trip: str
    handle: Handle


@dataclass
class Changeable:
    trip: str


@dataclass(frozen=True)
class Carry(Command[None], type="mails.carry.v1", key="trip"):
    trip: str
    handle: Handle


@dataclass(frozen=True)
class AskForHandle(Command[Handle], type="mails.ask.v1", key="trip"):
    trip: str


def forgetful(state: Trip, reply: None) -> None:
    """It returns nothing."""


class NotDeclared(Command[None]):
    pass


def saga(
    *steps: Step[Any], name: str = "book-trip", version: int = 1, state: Any = Trip
) -> Saga[Any]:
    return Saga(name=name, version=version, state=state, key=lambda it: it.trip, steps=steps)


def room(**changes: Any) -> Step[Trip]:
    return replace(ROOM, **changes)


def text_as_list() -> Saga[Any]:
    return saga(
        compensatable(
            "a",
            lambda it: ReserveRoom(it.trip),
            compensation=lambda it: ReleaseRoom(it.trip),
            after="reserve seat",
        )
    )


def other_participant() -> Saga[Any]:
    return saga(room(compensation=lambda it: Charge(it.trip)))


def a_hundred_and_one() -> Saga[Any]:
    return saga(*(room(name=f"room {number}") for number in range(101)))


CASES: Sequence[tuple[str, Callable[[], object], str]] = [
    (
        "a saga without a name",
        lambda: saga(ROOM, name=""),
        f"'' is no name for a saga; {SAGA_NAME} letters",
    ),
    (
        "a saga's name in capitals",
        lambda: saga(ROOM, name="BookTrip"),
        f"'BookTrip' is no name for a saga; {SAGA_NAME} letters",
    ),
    (
        "a saga's name that ends in a hyphen",
        lambda: saga(ROOM, name="book-"),
        f"'book-' is no name for a saga; {SAGA_NAME} letters",
    ),
    (
        "a saga's name that is too long",
        lambda: saga(ROOM, name="b" * 101),
        f"'{'b' * 101}' is no name for a saga; {SAGA_NAME} letters",
    ),
    (
        "version 0",
        lambda: saga(ROOM, version=0),
        "saga 'book-trip' has version 0; start with version 1",
    ),
    ("no steps", saga, "saga 'book-trip' has 0 steps; give it 1 to 100 steps"),
    (
        "too many steps",
        a_hundred_and_one,
        "saga 'book-trip' has 101 steps; give it 1 to 100 steps",
    ),
    (
        "a state that can be changed",
        lambda: saga(ROOM, state=Changeable),
        "the state of saga 'book-trip' is 'Changeable', which is no frozen dataclass; write "
        "@dataclass(frozen=True) above the class, and give the class itself",
    ),
    (
        "a state that is no class",
        lambda: saga(ROOM, state=Trip("t1")),
        "the state of saga 'book-trip' is Trip(trip='t1', seat=None), which is no frozen "
        "dataclass; write @dataclass(frozen=True) above the class, and give the class itself",
    ),
    (
        "a state that cannot be stored",
        lambda: saga(ROOM, state=Holding),
        "the state of saga 'book-trip': Holding cannot be sent, since not all of its fields have "
        "a form in JSON: ",
    ),
    (
        "a step without a name",
        lambda: saga(room(name="")),
        f"'' is no name for a step of saga 'book-trip'; {STEP_NAME}",
    ),
    (
        "a step's name with a blank at its end",
        lambda: saga(room(name="room ")),
        f"'room ' is no name for a step of saga 'book-trip'; {STEP_NAME}",
    ),
    (
        "a step's name that no database stores",
        lambda: saga(room(name="ro\0om")),
        f"'ro\\x00om' is no name for a step of saga 'book-trip'; {STEP_NAME}",
    ),
    (
        "a step's name that is too long",
        lambda: saga(room(name="r" * 101)),
        f"'{'r' * 101}' is no name for a step of saga 'book-trip'; {STEP_NAME}",
    ),
    (
        "two steps of one name",
        lambda: saga(SEAT, room(name="reserve seat")),
        "two steps of saga 'book-trip' are named 'reserve seat', and a step is known by its name; "
        "rename one of them",
    ),
    (
        "a compensatable step after the pivot",
        lambda: saga(CHARGE, ROOM),
        f"the compensatable step 'reserve room' stands after the pivot step 'charge'; {ORDER}",
    ),
    (
        "a compensatable step after a retriable one",
        lambda: saga(SEAT, TICKET, ROOM),
        "the compensatable step 'reserve room' stands after the retriable step 'send ticket'; "
        + ORDER,
    ),
    (
        "a pivot after a retriable step",
        lambda: saga(TICKET, CHARGE),
        f"the pivot step 'charge' stands after the retriable step 'send ticket'; {ORDER}",
    ),
    (
        "two pivots",
        lambda: saga(CHARGE, replace(CHARGE, name="charge again")),
        "step 'charge again' is a second pivot after 'charge', and a saga has one point of no "
        f"return; {ORDER}",
    ),
    (
        "a compensatable step without a compensation",
        lambda: saga(room(compensation=None)),
        "the compensatable step 'reserve room' has no compensation; give a compensation to every "
        "compensatable step, and to no other",
    ),
    (
        "a pivot with a compensation",
        lambda: saga(room(kind=Kind.PIVOT)),
        "the pivot step 'reserve room' has a compensation; give a compensation to every "
        "compensatable step, and to no other",
    ),
    (
        "a pivot that gives up when it is locked",
        lambda: saga(replace(CHARGE, when_locked=WhenLocked.REJECT)),
        "the pivot step 'charge' is to be given up when it is locked, but a copy of its command "
        "may still run, and nothing would undo it; let an earlier, compensatable step take the "
        "lock",
    ),
    (
        "a deadline of nothing",
        lambda: saga(room(deadline=timedelta(0))),
        "the deadline of step 'reserve room' is 0:00:00; choose more than nothing and at most 366 "
        "days",
    ),
    (
        "a deadline beyond the calendar",
        lambda: saga(room(deadline=timedelta.max)),
        "the deadline of step 'reserve room' is 999999999 days, 23:59:59.999999; choose more than "
        "nothing and at most 366 days",
    ),
    (
        "an on_reply that returns no state",
        lambda: saga(room(on_reply=forgetful)),
        "on_reply of step 'reserve room' returns NoneType; let it return a Trip, such as "
        "replace(self, ...)",
    ),
    (
        "a step after one that does not exist",
        lambda: saga(SEAT, room(after=("reserve sea",))),
        "step 'reserve room' comes after 'reserve sea', which is no step of saga 'book-trip'; its "
        "steps are 'reserve room', 'reserve seat'",
    ),
    (
        "a text in place of a list of names",
        text_as_list,
        "step 'a' has after='reserve seat', which is a text and no list of names; write "
        "after=['reserve seat']",
    ),
    (
        "a compensatable step that comes after a retriable one by name",
        lambda: saga(room(after=("send ticket",)), TICKET),
        f"the compensatable step 'reserve room' comes after the retriable step 'send ticket'; "
        f"{ORDER}",
    ),
    (
        "a pivot that comes after a retriable step by name",
        lambda: saga(replace(CHARGE, after=("send ticket",)), TICKET),
        f"the pivot step 'charge' comes after the retriable step 'send ticket'; {ORDER}",
    ),
    (
        "steps that wait for each other",
        lambda: saga(replace(SEAT, after=("reserve room",)), room(after=("reserve seat",)), CHARGE),
        "these steps of saga 'book-trip' wait for each other, so that none of them would ever "
        "start: 'reserve seat', 'reserve room'; take one of them out of the other's after=",
    ),
    (
        "a step that waits for itself",
        lambda: saga(room(after=("reserve room",))),
        "these steps of saga 'book-trip' wait for each other, so that none of them would ever "
        "start: 'reserve room'; take one of them out of the other's after=",
    ),
    (
        "an action that makes no command",
        lambda: saga(pivot("a", lambda it: it)),
        "the action of step 'a': it makes _Anything, which is no Command; return an instance of a "
        "Command subclass",
    ),
    (
        "an action of which the command cannot be seen",
        lambda: saga(pivot("a", lambda it: Charge(it.trip) if it.seat > 1 else Charge(it.seat))),
        "the action of step 'a': it cannot be seen which command it makes (TypeError: '>' not "
        "supported between instances of '_Anything' and 'int'); write it as a function whose "
        "return annotation is the command's class",
    ),
    (
        "an action whose command has no type",
        lambda: saga(pivot("a", lambda it: NotDeclared())),
        "the action of step 'a': NotDeclared declares no message type; declare it: class "
        'NotDeclared(Event, type="owner.name.v1", key="field")',
    ),
    (
        "an action that JSON cannot carry",
        lambda: saga(pivot("a", lambda it: Carry(it.trip, it.handle))),
        "the action of step 'a': Carry cannot be sent, since not all of its fields have a form in "
        "JSON: ",
    ),
    (
        "a reply that JSON cannot carry",
        lambda: saga(retriable("a", lambda it: AskForHandle(it.trip))),
        "the reply to step 'a': Handle cannot be sent, since not all of its fields have a form in "
        "JSON: ",
    ),
    (
        "a compensation that makes no command",
        lambda: saga(room(compensation=lambda it: None)),
        "the compensation of step 'reserve room': it makes NoneType, which is no Command; return "
        "an instance of a Command subclass",
    ),
    (
        "a compensation that JSON cannot carry",
        lambda: saga(room(compensation=lambda it: Carry(it.trip, it.handle))),
        "the compensation of step 'reserve room': Carry cannot be sent, since not all of its "
        "fields have a form in JSON: ",
    ),
    (
        "a compensation by another participant",
        other_participant,
        "step 'reserve room' is done by 'hotels' and undone by 'payments', but only the "
        "participant that ran an action knows whether there is anything to undo; send the "
        "compensation to 'hotels'",
    ),
]


@pytest.mark.parametrize(
    ("make", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_mistake_is_refused_and_named(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidSaga) as caught:
        make()
    text = str(caught.value)
    assert text.startswith(said) if said.endswith(": ") else text == said


@pytest.mark.parametrize(
    "steps",
    [
        (SEAT,),
        (CHARGE,),
        (TICKET,),
        (SEAT, ROOM),
        (SEAT, TICKET),
        (CHARGE, TICKET),
        (SEAT, ROOM, CHARGE, TICKET),
        (SEAT, room(after=()), CHARGE, TICKET, replace(TICKET, name="send bill", after=())),
        (room(name="r" * 100, deadline=timedelta(days=366)),),
        (room(name="réserver la chambre №1"),),
        (replace(SEAT, after=("reserve room",)), room(after=())),
    ],
    ids=lambda steps: ", ".join(step.name[:20] for step in steps),
)
def test_what_keeps_the_order_is_accepted(steps: tuple[Step[Trip], ...]) -> None:
    assert saga(*steps).steps == steps
