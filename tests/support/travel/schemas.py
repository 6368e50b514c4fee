"""The tables of the services of `examples/travel`, as their migrations leave them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import Connection

from outbox import tables
from tests.support.checkout import ROOT
from tests.support.databases.databases import Schema
from tests.support.orchestrator.orchestrating import orchestrator_schema

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    # The modules make their engines where they are imported; nothing connects here.
    patch.setenv("TRAVEL_DATABASE_URL_HOTEL", "sqlite:////nowhere/hotel.sqlite")
    patch.setenv("TRAVEL_DATABASE_URL_FLIGHT", "sqlite+aiosqlite:////nowhere/flight.sqlite")
    patch.setenv("TRAVEL_DATABASE_URL_PAYMENT", "sqlite+aiosqlite:////nowhere/payment.sqlite")
    from travel.flight import database as flight
    from travel.hotel import database as hotel
    from travel.payment import database as payment


def hotel_schema(connection: Connection) -> None:
    tables.metadata.create_all(connection)
    hotel.Base.metadata.create_all(connection)


def flight_schema(connection: Connection) -> None:
    tables.metadata.create_all(connection)
    flight.Base.metadata.create_all(connection)


def payment_schema(connection: Connection) -> None:
    tables.metadata.create_all(connection)
    payment.Base.metadata.create_all(connection)


SCHEMAS: Mapping[str, Schema] = {
    "orchestrator": orchestrator_schema,
    "hotel": hotel_schema,
    "flight": flight_schema,
    "payment": payment_schema,
}
