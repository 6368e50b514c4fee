"""A business that the tests of sagas tell stories about: booking a trip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Step, compensatable, pivot, retriable
from outbox.messages import Command
from outbox.retry import RetryPolicy


@dataclass(frozen=True)
class Seat:
    number: str


@dataclass(frozen=True)
class ReserveSeat(Command[Seat], type="trains.reserve-seat.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class ReleaseSeat(Command[None], type="trains.release-seat.v1", key="trip"):
    trip: str
    seat: str | None


@dataclass(frozen=True)
class ReserveRoom(Command[None], type="hotels.reserve-room.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class ReleaseRoom(Command[None], type="hotels.release-room.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class Charge(Command[None], type="payments.charge.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class SendTicket(Command[None], type="mails.send-ticket.v1", key="trip"):
    trip: str


@dataclass(frozen=True)
class Trip:
    """The state of a run."""

    trip: str
    seat: str | None = None

    def seated(self, reply: Seat) -> Trip:
        return replace(self, seat=reply.number)


NAMES = ("trains", "hotels", "payments", "mails")
"""Who takes part."""

DEADLINE = timedelta(minutes=5)
PATIENCE = RetryPolicy(first=1, factor=2, ceiling=10, jitter=0, attempts=3)
"""Pauses of 1 and 2 seconds, then it gives up."""


SEAT = compensatable(
    "reserve seat",
    lambda it: ReserveSeat(it.trip),
    compensation=lambda it: ReleaseSeat(it.trip, it.seat),
    on_reply=Trip.seated,
    retry=PATIENCE,
)
ROOM: Step[Trip] = compensatable(
    "reserve room",
    lambda it: ReserveRoom(it.trip),
    compensation=lambda it: ReleaseRoom(it.trip),
    retry=PATIENCE,
)
CHARGE: Step[Trip] = pivot("charge", lambda it: Charge(it.trip), retry=PATIENCE)
TICKET: Step[Trip] = retriable("send ticket", lambda it: SendTicket(it.trip), retry=PATIENCE)


def _room_that_fails(_: Trip) -> ReserveRoom:
    raise RuntimeError("no room")


def _undo_that_fails(_: Trip) -> ReleaseRoom:
    raise RuntimeError("no room")


def _deaf(_: Trip, reply: Seat) -> Trip:
    raise RuntimeError(f"what is {reply.number}?")


UNMAKEABLE_ROOM = replace(ROOM, action=_room_that_fails)
"""Its action's function raises."""
ONE_WAY_ROOM = replace(ROOM, compensation=_undo_that_fails)
"""Its compensation's function raises."""
DEAF_SEAT = replace(SEAT, on_reply=_deaf)
"""Its on_reply raises."""


def trip(*steps: Step[Trip]) -> Saga[Trip]:
    """A saga of these steps."""
    return Saga(name="book-trip", version=1, state=Trip, key=lambda it: it.trip, steps=steps)


BOOKING = trip(SEAT, ROOM, CHARGE, TICKET)
"""One step after the other."""
WITHOUT_PIVOT = trip(SEAT, ROOM, TICKET)
SIDE_BY_SIDE = trip(SEAT, replace(ROOM, after=()), CHARGE, TICKET)
"""Seat and room at the same time."""
