"""What is sent: each key's numbers, from 1 on, in the order in which they were committed."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table

from outbox import tables
from outbox.messages import Event

KEYS = tuple(f"key-{number}" for number in range(48))

numbers_metadata = MetaData()
counter = Table(
    "counter",
    numbers_metadata,
    Column("name", String(20), primary_key=True),
    Column("number", Integer, nullable=False),
)
"""The last number of each key that was committed."""

taken_metadata = MetaData()
taken = Table(
    "taken",
    taken_metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("name", String(20), nullable=False),
    Column("number", Integer, nullable=False),
)
"""Each effect, in its order."""


@dataclass(frozen=True)
class Counted(Event, type="numbers.counted.v1", key="name"):
    """This key has come to this number."""

    name: str
    number: int


def sender_schema(connection: Connection) -> None:
    """The library's tables, and a counter of each key at 0."""
    tables.metadata.create_all(connection)
    numbers_metadata.create_all(connection)
    connection.execute(counter.insert(), [{"name": key, "number": 0} for key in KEYS])


def receiver_schema(connection: Connection) -> None:
    """The library's tables, and nothing taken."""
    tables.metadata.create_all(connection)
    taken_metadata.create_all(connection)
