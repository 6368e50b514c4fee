"""Worlds of participants that have tables of their own named inbox and outbox."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator import Saga, compensatable, retriable
from orchestrator.testing import check_saga
from outbox import Context, Handlers, Tables
from tests.support.databases.postgres import PostgresServer
from tests.support.outbox.inboxes import Book, Booked, Noted, Unbook


class Base(DeclarativeBase):
    pass


class Letter(Base):
    """A letter that came in."""

    __tablename__ = "inbox"
    id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str]


class Sent(Base):
    """A letter that went out."""

    __tablename__ = "outbox"
    id: Mapped[str] = mapped_column(primary_key=True)


SAGA = Saga(
    name="book",
    version=1,
    state=Noted,
    key=lambda it: it.account,
    steps=[
        compensatable(
            "book", lambda it: Book(it.account), compensation=lambda it: Unbook(it.account)
        ),
        retriable("book again", lambda it: Book(it.account, "again")),
    ],
)


def _bank() -> Handlers:
    bank = Handlers("bank")

    @bank.on(Book)
    def book(session: Session, command: Book, context: Context) -> Booked:
        session.add(Letter(id=context.id, subject=command.entry))
        return Booked(1)

    @bank.on(Unbook)
    def unbook(session: Session, command: Unbook, context: Context) -> None:
        for letter in session.scalars(select(Letter).where(Letter.id.in_(context.undoes))):
            session.delete(letter)

    return bank


def _check(**options: Any) -> None:
    checked = check_saga(
        SAGA,
        Noted("a"),
        participants={"bank": _bank()},
        schema=Base.metadata,
        prepare=_prepare,
        **options,
    )
    assert len(checked.ways) > 20


def _prepare(world: Any) -> None:
    with world.session("bank") as session:
        session.add(Sent(id="earlier"))
    assert world.sent("bank") == []


def test_every_way_is_tried_where_the_library_has_a_prefix() -> None:
    _check(tables={"bank": Tables("sagabox_")})


@pytest.mark.slow
def test_every_way_is_tried_where_the_library_has_a_schema(postgres_server: PostgresServer) -> None:
    url = f"postgresql://postgres@127.0.0.1:{postgres_server.port}/postgres"
    _check(tables=Tables("sagabox_", "messaging"), database=url)


def test_tables_of_an_unknown_participant_are_refused() -> None:
    with pytest.raises(ValueError, match="tables= names 'tank', which is no participant"):
        _check(tables={"tank": Tables("sagabox_")})
