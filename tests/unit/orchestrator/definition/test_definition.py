"""What a definition tells of itself."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any, Generic, TypeVar

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Step, retriable
from orchestrator.errors import InvalidInput
from outbox.errors import InvalidMessage
from outbox.messages import Command, reply_type
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    ROOM,
    SEAT,
    SIDE_BY_SIDE,
    TICKET,
    WITHOUT_PIVOT,
    Charge,
    ReleaseRoom,
    ReserveRoom,
    ReserveSeat,
    Seat,
    SendTicket,
    Trip,
    trip,
)

R = TypeVar("R")


def names(**needs: str) -> dict[str, frozenset[str]]:
    """`reserve_seat="charge, send ticket"`"""
    return {
        name.replace("_", " "): frozenset(filter(None, listed.split(", ")))
        for name, listed in needs.items()
    }


def test_a_list_of_steps_runs_in_its_order() -> None:
    assert BOOKING.dependencies == names(
        reserve_seat="",
        reserve_room="reserve seat",
        charge="reserve room, reserve seat",
        send_ticket="charge",
    )


def test_steps_that_name_what_they_come_after_form_a_graph() -> None:
    assert SIDE_BY_SIDE.dependencies == names(
        reserve_seat="",
        reserve_room="",
        charge="reserve room, reserve seat",
        send_ticket="charge",
    )


def test_without_a_pivot_every_retriable_step_comes_after_all_compensatable_ones() -> None:
    bill = replace(TICKET, name="send bill", after=())
    assert trip(SEAT, replace(ROOM, after=()), TICKET, bill).dependencies == names(
        reserve_seat="",
        reserve_room="",
        send_ticket="reserve room, reserve seat",
        send_bill="reserve room, reserve seat",
    )


def test_a_retriable_step_comes_after_the_pivot_with_any_names_in_after() -> None:
    bill = replace(TICKET, name="send bill", after=("reserve seat",))
    assert trip(SEAT, CHARGE, TICKET, bill).dependencies["send bill"] == {"charge", "reserve seat"}


def test_followers_are_all_that_comes_after_a_step_by_way_of_others_too() -> None:
    assert BOOKING.followers == names(
        reserve_seat="reserve room, charge, send ticket",
        reserve_room="charge, send ticket",
        charge="send ticket",
        send_ticket="",
    )
    assert SIDE_BY_SIDE.followers["reserve seat"] == {"charge", "send ticket"}


def test_the_point_of_no_return_is_the_pivot_and_all_after_it() -> None:
    assert BOOKING.point_of_no_return == {"charge", "send ticket"}
    assert WITHOUT_PIVOT.point_of_no_return == {"send ticket"}
    assert trip(SEAT, ROOM).point_of_no_return == set()


def test_it_knows_the_commands_and_the_participants() -> None:
    assert BOOKING.actions["charge"] is Charge
    assert BOOKING.compensations == {
        "reserve seat": BOOKING.compensations["reserve seat"],
        "reserve room": ReleaseRoom,
    }
    assert str(BOOKING.action_type("reserve room")) == "hotels.reserve-room.v1"
    assert BOOKING.participants == {"trains", "hotels", "payments", "mails"}


def test_a_step_is_found_by_its_name() -> None:
    assert BOOKING.step("charge") is CHARGE
    with pytest.raises(KeyError):
        BOOKING.step("refund")


def test_it_prints_as_its_name_and_version() -> None:
    assert str(BOOKING) == "book-trip v1"


def test_a_definition_does_not_change_any_more() -> None:
    steps = [SEAT]
    saga = Saga(name="book-trip", version=1, state=Trip, key=lambda it: it.trip, steps=steps)
    steps.append(ROOM)
    assert saga.steps == (SEAT,)
    with pytest.raises(FrozenInstanceError):
        saga.version = 2  # type: ignore[misc]  # that is what is tried


# The fingerprint


def test_the_fingerprint_is_the_same_for_the_same_shape() -> None:
    same = trip(SEAT, replace(ROOM, action=lambda it: ReserveRoom("other")), CHARGE, TICKET)
    assert same.fingerprint == BOOKING.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        trip(ROOM, SEAT, CHARGE, TICKET),
        trip(SEAT, CHARGE, TICKET),
        trip(SEAT, replace(ROOM, name="book room"), CHARGE, TICKET),
        trip(SEAT, replace(ROOM, after=()), CHARGE, TICKET),
        trip(SEAT, ROOM, retriable("charge", lambda it: Charge(it.trip)), TICKET),
        trip(SEAT, ROOM, CHARGE, replace(TICKET, action=lambda it: Charge(it.trip))),
        trip(SEAT, replace(ROOM, compensation=lambda it: ReserveRoom(it.trip)), CHARGE, TICKET),
        replace(BOOKING, version=2),
        replace(BOOKING, name="plan-trip"),
    ],
    ids=["order", "steps", "name", "graph", "kind", "action", "undo", "version", "saga"],
)
def test_the_fingerprint_tells_shapes_apart(other: Saga[Trip]) -> None:
    assert other.fingerprint != BOOKING.fingerprint


def test_the_fingerprint_leaves_out_what_strands_no_run() -> None:
    patient = replace(SEAT, deadline=SEAT.deadline * 2, retry=replace(SEAT.retry, attempts=9))
    assert trip(patient, ROOM, CHARGE, TICKET).fingerprint == BOOKING.fingerprint
    assert replace(BOOKING, one_active=True).fingerprint == BOOKING.fingerprint


# Input, state and replies


def test_an_accepted_input_has_a_key() -> None:
    assert BOOKING.accept(Trip("t1")) == "t1"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("t1", "book-trip v1 runs on Trip, and was given str; give it an instance of Trip"),
        (Trip(""), "the key of this run of book-trip v1 would be ''; make it a text of 1 to 200"),
        (Trip("t" * 201), "the key of this run of book-trip v1 would be 'ttt"),
        (Trip("t\0"), "this state of book-trip v1 cannot be kept: "),
        (Trip("t\ud800"), "this state of book-trip v1 cannot be kept: "),
        (Trip(7), "this state of book-trip v1 cannot be kept: "),  # type: ignore[arg-type]  # that is what is tried
    ],
    ids=["class", "empty key", "long key", "NUL", "surrogate", "field"],
)
def test_an_input_that_cannot_be_kept_is_refused(state: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        BOOKING.accept(state)
    assert str(caught.value).startswith(said)


def test_a_key_that_raises_is_an_invalid_input() -> None:
    saga = replace(BOOKING, key=lambda it: it.seat.upper())  # type: ignore[union-attr]  # that is what is tried
    with pytest.raises(InvalidInput) as caught:
        saga.accept(Trip("t1"))
    assert str(caught.value) == (
        "the key of a run of book-trip v1 cannot be told: AttributeError: 'NoneType' object has no "
        "attribute 'upper'; correct the input, or the function given as key="
    )


def test_a_key_that_no_database_stores_is_an_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="would be 't1"):
        replace(BOOKING, key=lambda it: it.trip + "\0").accept(Trip("t1"))


def test_a_key_that_is_no_text_is_an_invalid_input() -> None:
    saga = replace(BOOKING, key=lambda it: it.seat)  # type: ignore[arg-type,return-value]  # that is what is tried
    with pytest.raises(InvalidInput, match="would be None"):
        saga.accept(Trip("t1"))


def test_a_reply_is_read_as_what_the_command_promises() -> None:
    assert BOOKING.decode_reply("reserve seat", {"number": "7", "window": True}) == Seat("7")
    assert BOOKING.decode_reply("charge", None) is None
    with pytest.raises(InvalidMessage, match="field 'number'"):
        BOOKING.decode_reply("reserve seat", {})


# How a command is found


def annotated(state: Trip) -> SendTicket:
    return SendTicket(state.trip if len(state.trip) > 3 else "short")


def test_a_return_annotation_tells_the_command_without_a_call() -> None:
    step: Step[Trip] = replace(TICKET, action=annotated)
    assert trip(step).actions == {"send ticket": SendTicket}


def test_a_lambda_may_do_a_little_with_the_state() -> None:
    def at(text: str) -> str:
        return text

    step = replace(TICKET, action=lambda it: SendTicket(f"{at(it.trip)[0]}-{it.seat}" + it.trip))
    assert trip(step).actions == {"send ticket": SendTicket}


@dataclass(frozen=True)
class Listed(Command[list[R]], Generic[R]):
    trip: str


@dataclass(frozen=True)
class ListSeats(Listed[Seat], type="trains.list-seats.v1", key="trip"):
    pass


@dataclass(frozen=True)
class Anything(Command, type="trains.anything.v1", key="trip"):  # type: ignore[type-arg]  # that is what is tried
    trip: str


@dataclass(frozen=True)
class Sooner(ReserveSeat, type="trains.reserve-seat.v2", key="trip"):
    pass


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (ReserveSeat, Seat),
        (Charge, type(None)),
        (ListSeats, list[Seat]),
        (Sooner, Seat),
        (Anything, Any),
    ],
)
def test_the_reply_of_a_command_is_found_through_its_bases(
    command: type[Command[Any]], reply: object
) -> None:
    found = reply_type(command)
    assert found == reply or (found is None and reply is type(None))
