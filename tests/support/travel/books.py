"""What the tables of all services say of each trip, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from tests.support.databases.databases import Database
from tests.support.orchestrator.saga_writers import rows


@dataclass
class Facts:
    """What is known of one trip. `room` and `seat` say whether they are confirmed; None is no
    reservation."""

    told: str | None = None
    run: str | None = None
    room: bool | None = None
    seat: bool | None = None
    entries: list[int] = field(default_factory=list)
    receipts: list[int] = field(default_factory=list)

    @property
    def is_refunded(self) -> bool:
        """Whether it was charged, and the money given back."""
        return len(self.entries) == 2


def facts(databases: Mapping[str, Database]) -> dict[str, Facts]:
    """By the id of the trip, whichever table names it."""
    found: dict[str, Facts] = {}

    def of(trip: object) -> Facts:
        # The orchestrator keeps ids as the database does best, the services keep texts.
        return found.setdefault(str(UUID(str(trip))), Facts())

    hotel, flight, payment = (databases[name] for name in ("hotel", "flight", "payment"))
    for trip, status in rows(databases["orchestrator"], "SELECT id, status FROM saga"):
        of(trip).run = status
    for trip, ended in rows(hotel, "SELECT id, coalesce(ended, 'not ended') FROM trips"):
        of(trip).told = ended
    for trip, is_confirmed in rows(hotel, "SELECT trip, is_confirmed FROM reservations"):
        of(trip).room = bool(is_confirmed)
    for trip, is_confirmed in rows(flight, "SELECT trip, is_confirmed FROM seats"):
        of(trip).seat = bool(is_confirmed)
    for trip, amount in rows(payment, "SELECT trip, amount FROM entries ORDER BY id"):
        of(trip).entries.append(amount)
    for trip, amount in rows(hotel, "SELECT trip, amount FROM receipts ORDER BY id"):
        of(trip).receipts.append(amount)
    return found


def problems(databases: Mapping[str, Database], price: int) -> list[str]:
    """What breaks a promise, a sentence each, once every run has ended and all was sent. `price`
    is that of every trip."""
    found = facts(databases)
    return [
        *(f"{trip}: {it}" for trip, known in found.items() for it in _of_trip(known, price)),
        *_of_totals(databases, found),
    ]


def _of_trip(it: Facts, price: int) -> Iterator[str]:
    if it.told != it.run:
        yield f"the hotel was told {it.told}, and its run is {it.run}"
    match it.run:
        case "COMPLETED":
            booked = (True, True, [price])
            if (it.room, it.seat, it.entries) != booked:
                yield f"it is not booked as a whole: {it}"
        case "COMPENSATED":
            undone = (None, None)
            if (it.room, it.seat) != undone or it.entries not in ([], [price, -price]):
                yield f"it is not undone as a whole: {it}"
        case _:
            yield f"its run is {it.run}"
    if it.receipts != it.entries[:1]:
        yield f"{it.entries} was charged, and the hotel has noted {it.receipts}"


def _of_totals(databases: Mapping[str, Database], found: Mapping[str, Facts]) -> Iterator[str]:
    """The sums that the services keep, against what they are the sums of: here a command that took
    effect twice shows itself."""
    rooms = [it.room for it in found.values() if it.room is not None]
    seats = [it.seat for it in found.values() if it.seat is not None]
    money = sum(amount for it in found.values() for amount in it.entries)
    for name, table, columns, expected in (
        ("hotel", "rooms", "sum(reserved), sum(confirmed)", (len(rooms), sum(rooms))),
        ("flight", "flights", "sum(reserved)", (len(seats),)),
        ("payment", "cards", "sum(charged)", (money,)),
    ):
        (total,) = rows(databases[name], f"SELECT {columns} FROM {table}")
        if tuple(total) != expected:
            yield f"{table} says {columns} is {tuple(total)}, and it is {expected}"
