"""A desk where letters are written and signed: its saga, its tables, and right handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Computed, ForeignKey, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator import Saga, compensatable, retriable
from orchestrator.testing import AsyncSagaWorld, SagaWorld
from outbox import Command, Context, Handlers


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    text: Mapped[str]
    shelf: Mapped[int] = mapped_column(Computed("id % 4", persisted=True))


class Page(Base):
    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    letter: Mapped[int] = mapped_column(ForeignKey(Letter.id))
    marks: Mapped[dict[str, Any]] = mapped_column(JSON)


@dataclass(frozen=True)
class Write(Command[None], type="desk.write.v1", key="name"):
    name: str


@dataclass(frozen=True)
class Erase(Command[None], type="desk.erase.v1", key="name"):
    name: str


@dataclass(frozen=True)
class Sign(Command[None], type="desk.sign.v1", key="name"):
    name: str


@dataclass(frozen=True)
class Wish:
    name: str


send = Saga(
    name="send-letter",
    version=1,
    state=Wish,
    key=lambda it: it.name,
    steps=[
        compensatable("write", lambda it: Write(it.name), compensation=lambda it: Erase(it.name)),
        retriable("sign", lambda it: Sign(it.name)),
    ],
)


def write(session: Session, command: Write, _: Context) -> None:
    letter = Letter(name=command.name, text="dear")
    session.add(letter)
    session.flush()
    session.add(Page(letter=letter.id, marks={"of": letter.id, "pages": [1]}))


def erase(session: Session, command: Erase, _: Context) -> None:
    letter = letter_named(session, command.name)
    session.execute(delete(Page).where(Page.letter == letter.id))
    session.delete(letter)


def sign(session: Session, command: Sign, _: Context) -> None:
    letter_named(session, command.name).text += ", yours"


def letter_named(session: Session, name: str) -> Letter:
    return session.scalars(select(Letter).where(Letter.name == name)).one()


Handle = Callable[[Any, Any, Context], Any]
Kind = Callable[[Handle], Handle]


def plain(handle: Handle) -> Handle:
    """The handler as it is, in plain sessions."""
    return handle


def on_loop(handle: Handle) -> Handle:
    """The same handler in async sessions."""

    async def handle_there(session: AsyncSession, command: Any, context: Context) -> Any:
        return await session.run_sync(handle, command, context)

    return handle_there


def desk(kind: Kind = plain, **other: Handle) -> dict[str, Any]:
    handlers = Handlers("desk")
    for command, handle in ((Write, write), (Erase, erase), (Sign, sign)):
        handlers.on(command)(kind(other.get(handle.__name__, handle)))
    return {"participants": {"desk": handlers}, "schema": Base.metadata}


def prepare(world: SagaWorld | AsyncSagaWorld) -> None:
    with world.session("desk") as session:
        session.add(Letter(name="old", text="..."))
        session.flush()
        session.add(Page(letter=1, marks={}))
