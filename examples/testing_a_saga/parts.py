"""A part is built by a workshop, which calls a webhook when it is done, and a person accepts it."""

from dataclasses import dataclass

from sqlalchemy import create_engine, delete
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator import Saga, compensatable, pivot
from outbox import Command, Context, Pending, Refused, Service


@dataclass(frozen=True)
class Build(Command[int], type="parts.build.v1", key="part"):
    part: str


@dataclass(frozen=True)
class Scrap(Command[None], type="parts.scrap.v1", key="part"):
    part: str


@dataclass(frozen=True)
class Accept(Command[None], type="parts.accept.v1", key="part"):
    part: str


@dataclass(frozen=True)
class Part:
    name: str


order_part = Saga(
    name="order-part",
    version=1,
    state=Part,
    key=lambda it: it.name,
    steps=[
        compensatable(
            "build",
            lambda it: Build(it.name),
            compensation=lambda it: Scrap(it.name),
        ),
        pivot("accept", lambda it: Accept(it.name)),
    ],
)


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"
    part: Mapped[str] = mapped_column(primary_key=True)
    weight: Mapped[int | None]


class Question(Base):
    __tablename__ = "questions"
    part: Mapped[str] = mapped_column(primary_key=True)
    is_accepted: Mapped[bool | None]


service = Service(
    "parts",
    create_engine("sqlite:///parts.sqlite"),
    peers={"orchestrator": "http://127.0.0.1:8100"},
)


@service.on(Build)
def build(session: Session, command: Build, _: Context) -> Pending:
    session.add(Job(part=command.part))
    return Pending("the workshop builds it")


def built(session: Session, command_id: str, part: str, weight: int) -> None:
    """The workshop's webhook. It may call twice, and late."""
    service.complete(session, command_id, weight)
    session.get_one(Job, part).weight = weight


@service.on(Scrap)
def scrap(session: Session, command: Scrap, _: Context) -> None:
    session.delete(session.get_one(Job, command.part))


@service.on(Accept)
def ask(session: Session, command: Accept, _: Context) -> Pending:
    session.add(Question(part=command.part))
    return Pending("a person looks at it")


def accepted(session: Session, command_id: str, part: str) -> None:
    service.complete(session, command_id, None)
    session.get_one(Question, part).is_accepted = True


def declined(session: Session, command_id: str, part: str) -> None:
    """The question goes with its answer: no compensation takes it back."""
    service.complete(session, command_id, Refused("declined", "it does not fit"))
    session.execute(delete(Question).where(Question.part == part))
