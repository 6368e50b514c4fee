"""A world is the same on every database that its participants may have: it finds the same bugs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Computed, ForeignKey, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from orchestrator import Saga, compensatable, retriable
from orchestrator.machine.instance import Status
from orchestrator.testing import AsyncSagaWorld, Checked, Run, SagaWorld, WayFailed, check_saga
from outbox import Command, Context, Handlers, Refused
from outbox.inbox.barrier import decide
from outbox.inbox.outside.results import ResultTransaction
from outbox.inbox.rows import Answer, Verdict
from outbox.inbox.rows import Run as Runs
from outbox.inbox.transactions import transaction
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples" / "testing_a_saga")
    import parts
    import tickets


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
    letter = _letter(session, command.name)
    session.execute(delete(Page).where(Page.letter == letter.id))
    session.delete(letter)


def sign(session: Session, command: Sign, _: Context) -> None:
    _letter(session, command.name).text += ", yours"


def _letter(session: Session, name: str) -> Letter:
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


@pytest.fixture
def saga_database(database_kind: str, request: pytest.FixtureRequest) -> str | None:
    if database_kind == "sqlite":
        return None
    server = {"postgresql": "postgres_server", "older-postgresql": "older_postgres_server"}
    url: str = request.getfixturevalue(server[database_kind]).url(driver=None)
    return url


Check = Callable[..., Checked]


@pytest.fixture
def check(saga_database: str | None) -> Check:
    """`check_saga` of the letter on that database, with other handlers where they are given."""

    def try_ways(only: str = "", *, kind: Kind = plain, **other: Any) -> Checked:
        handlers = {name: other.pop(name) for name in ("write", "erase", "sign") if name in other}
        return check_saga(
            send,
            Wish("new"),
            **desk(kind, **handlers),
            prepare=prepare,
            only=only,
            database=saga_database,
            **other,
        )

    return try_ways


@pytest.mark.parametrize("kind", [plain, on_loop])
def test_a_right_saga_passes_whose_numbers_are_drawn_again_after_a_failure(
    check: Check, kind: Kind
) -> None:
    checked = check("the handler of step 'write'", kind=kind)
    assert checked.missed == []
    ends = [Status.COMPLETED, Status.COMPLETED, Status.COMPENSATED]
    assert list(checked.ends.values()) == ends


# What `prepare` made is there again in each way


@pytest.mark.databases("sqlite", "postgresql", "older-postgresql")
def test_what_was_kept_is_restored(saga_world: Callable[..., SagaWorld]) -> None:
    world = saga_world(send, **desk())
    prepare(world)
    world.keep()
    before = world.snapshot()
    for _ in range(2):
        assert world.run(Wish("new")).status is Status.COMPLETED
        assert world.snapshot() != before
        world.restore()
        assert world.snapshot() == before
        with world.session("desk") as session:
            session.query(Page).delete()
            session.query(Letter).delete()
        world.restore()
        assert world.snapshot() == before


def test_an_async_test_has_its_databases_there_too_and_its_event_loop_may_end_before_them(
    tmp_path: Path,
    saga_database: str | None,
    database_kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> AsyncSagaWorld:
        world = AsyncSagaWorld(send, **desk(on_loop), folder=tmp_path, database=saga_database)
        assert (await world.run(Wish("new"))).status is Status.COMPLETED
        async with world.sessions("desk").begin() as session:
            assert (await session.scalar(select(func.count()).select_from(Letter))) == 1
            assert session.get_bind().dialect.name == database_kind
        return world

    asyncio.run(run()).close_now()
    assert [it for it in caplog.records if it.levelno >= logging.WARNING] == []


# Each kind of finding


def test_a_compensation_that_does_nothing_is_found(check: Check) -> None:
    with pytest.raises(WayFailed, match=r"table letters, row id=\d: was not") as failed:
        check(erase=lambda *_: None)
    assert failed.value.way == "a person cancels during step 'write'"
    assert "the run is COMPENSATED, and not everything is as it was" in failed.value.problem


def test_a_compensation_that_undoes_too_much_is_found(check: Check) -> None:
    def thorough(session: Session, _command: Erase, _: Context) -> None:
        session.query(Page).delete()

    with pytest.raises(WayFailed, match="table pages, row id=1: was there, is not there"):
        check(erase=thorough, ignore=["letters"])


def test_a_changed_value_is_found(check: Check) -> None:
    def careless(session: Session, command: Erase, context: Context) -> None:
        erase(session, command, context)
        session.get_one(Page, 1).marks = {"by": ["mistake"]}

    with pytest.raises(
        WayFailed, match=r"row id=1: marks was '{}', is '{\"by\": \[\"mistake\"\]}'"
    ):
        check(erase=careless)


def test_a_handler_that_does_something_else_when_it_is_called_again_is_found(check: Check) -> None:
    def stamped(session: Session, command: Sign, context: Context) -> None:
        _letter(session, command.name).text = f"try {context.attempt}"

    with pytest.raises(WayFailed, match="and not everything is as it is when nothing") as failed:
        check("the handler of step 'sign'", sign=stamped)
    assert "'try 1'" in failed.value.problem
    assert "'try 4'" in failed.value.problem


@pytest.mark.databases("postgresql")
def test_a_handler_that_goes_on_after_a_failed_statement_is_found_on_postgresql(
    check: Check,
) -> None:
    def mistaken(session: Session, _command: Sign, _: Context) -> None:
        with contextlib.suppress(IntegrityError):
            session.execute(insert(Letter).values(name="old", text="..."))
        session.execute(update(Letter).values(text="signed"))

    with pytest.raises(WayFailed, match="current transaction is aborted"):
        check(sign=mistaken)


def test_a_retriable_step_that_refuses_is_found_with_its_reason(check: Check) -> None:
    with pytest.raises(WayFailed, match=r"the run is STUCK and does not end: .*no-pen"):
        check(sign=lambda *_: Refused("no-pen", "there is nothing to write with"))


def test_an_invariant_that_does_not_hold_is_found(check: Check) -> None:
    def short(world: SagaWorld, run: Run) -> None:
        with world.session("desk") as session:
            assert session.query(Letter).count() == 1, f"a letter stays after {run.status}"

    with pytest.raises(WayFailed, match="does not hold: a letter stays after COMPLETED"):
        check(invariant=short)


def test_steps_that_a_run_does_not_reach_are_told(check: Check) -> None:
    checked = check("the handler of step 'sign'", write=lambda *_: Refused("no-paper", "none"))
    assert checked.missed == [way for way in checked.ways if "'sign'" in way]
    assert len(checked.missed) == 2


def _run_every_action(arrival: Any, found: Any, forgotten: Any, now: Any) -> Verdict:
    verdict = decide(arrival, found, forgotten, now)
    is_answered = isinstance(verdict, Answer) and not arrival.envelope.undoes
    return Runs(()) if is_answered else verdict


@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("every message arrives twice", "P2, P3: step 'write' took effect as action, action"),
        ("is overtaken", "P4: it is COMPENSATED, and step 'write' is in effect"),
    ],
)
def test_an_inbox_that_forgets_what_it_had_is_found(
    check: Check, monkeypatch: pytest.MonkeyPatch, way: str, problem: str
) -> None:
    monkeypatch.setattr(transaction, "decide", _run_every_action)
    with pytest.raises(WayFailed, match=problem):
        check(way, write=lambda *_: None, sign=lambda *_: None)


# Answers that come later


def workshop_builds(session: Session, command_id: str) -> None:
    parts.built(session, command_id, "axle", weight=12)


def check_part(
    database: str | None, only: str, build: object = workshop_builds, accept: object = None
) -> Checked:
    return check_saga(
        parts.order_part,
        parts.Part("axle"),
        participants={"parts": parts.service.handlers},
        schema=parts.Base.metadata,
        completions={parts.Build: [build], parts.Accept: [None, accept]},
        only=only,
        database=database,
    )


def test_a_refusal_that_does_not_take_back_what_the_handler_wrote_is_found(
    saga_database: str | None,
) -> None:
    with pytest.raises(WayFailed, match="row part='axle': was not there, is there"):
        check_part(saga_database, "is completed with", accept=Refused("no", "it does not fit"))


def test_a_webhook_that_is_too_late_and_writes_all_the_same_is_found(
    saga_database: str | None,
) -> None:
    def hasty(session: Session, command_id: str) -> None:
        if session.get(parts.Job, "axle") is None:
            session.add(parts.Job(part="axle"))
            return
        workshop_builds(session, command_id)

    with pytest.raises(WayFailed, match="row part='axle': was not there, is there") as failed:
        check_part(saga_database, "while step 'build' is pending", build=hasty)
    assert failed.value.way.endswith("and it is completed too late")


def test_a_webhook_that_fails_is_told_with_its_error(saga_database: str | None) -> None:
    def broken(_session: Session, _id: str) -> None:
        raise KeyError("oops")

    with pytest.raises(WayFailed, match=r"'build' could not be completed: KeyError\('oops'\)"):
        check_part(saga_database, "", build=broken)


# Calls to the outside, whose times are the database's


def check_ticket(database: str | None, only: str) -> Checked:
    def begin() -> None:
        tickets.provider.charges.clear()
        tickets.provider.voided.clear()

    def paid_once(_: SagaWorld, run: Run) -> None:
        due = 20 if run.status is Status.COMPLETED else 0
        assert sum(tickets.provider.charges.values()) == due, f"{tickets.provider.charges}"

    return check_saga(
        tickets.sell_ticket,
        tickets.Ticket("7"),
        participants={"tickets": tickets.tickets},
        schema=tickets.Base.metadata,
        begin=begin,
        invariant=paid_once,
        only=only,
        database=database,
    )


def test_a_provider_that_does_not_honour_its_keys_is_found(
    saga_database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def charge(key: str) -> int:
        charges = tickets.provider.charges
        return charges.setdefault(f"{key} {len(charges)}", 20)

    monkeypatch.setattr(tickets.provider, "charge", charge)
    with pytest.raises(WayFailed, match="the invariant does not hold: "):
        check_ticket(saga_database, "the call of step 'pay' is taken over")


def test_an_inbox_that_drops_a_late_success_is_found(
    saga_database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResultTransaction, "_write_late", lambda *_: None)
    monkeypatch.setattr(tickets.provider, "voided", _Forgetful())
    with pytest.raises(WayFailed, match="the invariant does not hold: "):
        check_ticket(saga_database, "is made after its undo")


class _Forgetful(set[str]):
    """What a provider without a void remembers of one."""

    def add(self, _: str) -> None:
        pass
