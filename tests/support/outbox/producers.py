"""A small service that sends messages: its messages, its one table, and a look at what it sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, String, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from outbox import tables
from outbox.messages import Command, Event
from outbox.sqlite import READ_ONLY

ROUTES = {"things.noted.v1": ["readers"], "things.shouted.v1": ["readers", "listeners"]}


@dataclass(frozen=True)
class Noted(Event, type="things.noted.v1", key="thing"):
    """Goes to one destination."""

    thing: str
    text: str = ""


@dataclass(frozen=True)
class Shouted(Event, type="things.shouted.v1", key="thing"):
    """Goes to two destinations."""

    thing: str


@dataclass(frozen=True)
class Unheard(Event, type="things.unheard.v1", key="thing"):
    """Has no route."""

    thing: str


@dataclass(frozen=True)
class Fetch(Command[str], type="stores.fetch.v1", key="thing"):
    """A command to the service `stores`."""

    thing: str


class Base(DeclarativeBase):
    """The service's own tables."""


class Thing(Base):
    """What the service keeps."""

    __tablename__ = "thing"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    text: Mapped[str] = mapped_column(String(50), default="")


def business(connection: Connection) -> None:
    """The schema of a service: the library's tables and its own."""
    tables.metadata.create_all(connection)
    Base.metadata.create_all(connection)


def in_transaction(sessions: sessionmaker[Session], body: Callable[[Session], None]) -> None:
    """Run `body` in a transaction of its own."""
    with sessions.begin() as session:
        body(session)


def texts(engine: Engine) -> list[str]:
    """The texts of the notes that will leave, in their order."""
    return [json.loads(row["payload"])["text"] for row in rows(engine)]


def rows(engine: Engine, table: str = "outbox") -> list[dict[str, Any]]:
    """The committed rows of one of the library's tables, in their order."""
    chosen = getattr(tables, table)
    order = chosen.c.seq if "seq" in chosen.c else chosen.c.id
    with engine.connect().execution_options(**READ_ONLY) as connection:
        found = connection.execute(select(chosen).order_by(order)).mappings()
        return [dict(row) for row in found]


async def texts_async(engine: AsyncEngine) -> list[str]:
    """As `texts`."""
    async with engine.connect() as connection:
        await connection.execution_options(**READ_ONLY)
        payload = tables.outbox.c.payload
        found = await connection.scalars(select(payload).order_by(tables.outbox.c.seq))
        return [json.loads(each)["text"] for each in found]


def things(session: Session) -> list[str]:
    """The names of the things that this session sees."""
    return list(session.scalars(select(Thing.name).order_by(Thing.name)))


def insert(connection: Connection, name: str, text: str = "") -> None:
    """A thing more, by a plain connection."""
    connection.execute(Thing.__table__.insert(), {"name": name, "text": text})  # type: ignore[attr-defined]  # a Table


def names(engine: Engine) -> list[str]:
    """The things that are there, seen by a reader."""
    with Session(engine) as session:
        session.connection(execution_options=READ_ONLY)
        return things(session)
