"""What the tables of all services and the provider say of each trip, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from outbox.testing.provider.ledger import Ledger
from tests.support.databases.databases import Database
from tests.support.orchestrator.saga_writers import rows


@dataclass
class Facts:
    """What is known of one trip. `room` and `seat` say whether they are confirmed; None is no
    reservation. `refunds` has the number of refunds of each charge at the provider."""

    told: str | None = None
    run: str | None = None
    stuck: str = ""
    room: bool | None = None
    seat: bool | None = None
    entries: list[int] = field(default_factory=list)
    receipts: list[int] = field(default_factory=list)
    charges: list[int] = field(default_factory=list)
    refunds: list[int] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)

    @property
    def is_refunded(self) -> bool:
        """Whether it was charged, and the money given back."""
        return any(self.refunds)

    @property
    def is_settled(self) -> bool:
        """Whether it ended and the hotel knows, or waits for a person."""
        return self.run == "STUCK" or self.told not in (None, "not ended")


@dataclass(frozen=True)
class Books:
    """The books of all: the databases of the services, and the provider's file."""

    databases: Mapping[str, Database]
    ledger: Path

    def facts(self) -> dict[str, Facts]:
        """By the id of the trip, whichever table names it."""
        found: dict[str, Facts] = {}

        def of(trip: object) -> Facts:
            # The orchestrator keeps ids as the database does best, the services keep texts.
            return found.setdefault(str(UUID(str(trip))), Facts())

        hotel, flight, payment = (self.databases[it] for it in ("hotel", "flight", "payment"))
        runs = rows(self.databases["orchestrator"], "SELECT id, status, document FROM saga")
        for trip, status, document in runs:
            of(trip).run = status
            of(trip).stuck = _stuck(document)
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
        told = Ledger(self.ledger).told()
        for charge in told["charges"]:
            of(charge["reference"]).charges.append(charge["amount"])
            of(charge["reference"]).refunds.append(len(charge["refunds"]))
        for order in told["orders"]:
            of(order["reference"]).orders.append(order["status"])
        return found

    def asked(self) -> list[dict[str, Any]]:
        """How often the provider was asked, by `kind` and `key`."""
        asked: list[dict[str, Any]] = Ledger(self.ledger).told()["asked"]
        return asked

    def problems(self, price: int) -> list[str]:
        """What breaks a promise, a sentence each, once every trip is settled and all was sent.
        `price` is that of every trip."""
        found = self.facts()
        return [
            *(f"{trip}: {it}" for trip, known in found.items() for it in _of_trip(known, price)),
            *self._of_totals(found),
        ]

    def _of_totals(self, found: Mapping[str, Facts]) -> Iterator[str]:
        """The sums that the services keep, against what they are the sums of: here a command that
        took effect twice shows itself."""
        rooms = [it.room for it in found.values() if it.room is not None]
        seats = sum(it.seat is not None for it in found.values())
        for name, table, columns, expected in (
            ("hotel", "rooms", "sum(reserved), sum(confirmed)", (len(rooms), rooms.count(True))),
            ("flight", "flights", "sum(reserved)", (seats,)),
        ):
            (total,) = rows(self.databases[name], f"SELECT {columns} FROM {table}")
            if tuple(total) != expected:
                yield f"{table} says {columns} is {tuple(total)}, and it is {expected}"


def _stuck(document: str) -> str:
    """The stuck steps of a run, each with its reason."""
    steps = json.loads(document)["steps"].items()
    return "; ".join(
        f"{name}: {it.get('reason')}" for name, it in steps if it.get("status") == "STUCK"
    )


def _of_trip(it: Facts, price: int) -> Iterator[str]:
    if len(it.charges) > 1 or it.charges not in ([], [price]):
        yield f"it was charged {it.charges}"
    if any(count > 1 for count in it.refunds):
        yield f"it was refunded {it.refunds} times"
    match it.run:
        case "COMPLETED":
            booked = (True, True, [price], [0], [price], ["confirmed"])
            if (it.room, it.seat, it.charges, it.refunds, it.entries, it.orders) != booked:
                yield f"it is not booked as a whole: {it}"
        case "COMPENSATED":
            is_left = it.room is not None or it.seat is not None or "confirmed" in it.orders
            if is_left or 0 in it.refunds or sum(it.entries) != 0:
                yield f"it is not undone as a whole: {it}"
        case "STUCK":
            if not it.stuck or "None" in it.stuck:
                yield f"it is STUCK without a reason: {it}"
            return
        case _:
            yield f"its run is {it.run}"
    if it.told != it.run:
        yield f"the hotel was told {it.told}, and its run is {it.run}"
    if it.receipts != it.entries[:1]:
        yield f"{it.entries} was charged, and the hotel has noted {it.receipts}"
