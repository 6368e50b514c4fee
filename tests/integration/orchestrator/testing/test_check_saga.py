"""`check_saga` finds bugs: of users' handlers and sagas, and of the library itself.

What it finds on every database stands in `tests/contracts/test_world_databases.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import orchestrator
import outbox
from orchestrator import Saga, compensatable, retriable
from orchestrator.machine.instance import Status
from orchestrator.testing import Checked, Run, SagaWorld, WayFailed, check_saga, check_saga_async
from outbox import Command, Context, Handlers
from outbox.inbox.barrier import decide
from outbox.inbox.rows import Answer, Verdict
from outbox.inbox.rows import Run as Runs
from outbox.inbox.transactions import transaction
from outbox.testing import crash_points as crash_points_of


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]


@dataclass(frozen=True)
class Write(Command[None], type="desk.write.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Erase(Command[None], type="desk.erase.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Sign(Command[None], type="desk.sign.v1", key="id"):
    id: str


@dataclass(frozen=True)
class Letter:
    id: str


send = Saga(
    name="send-letter",
    version=1,
    state=Letter,
    key=lambda it: it.id,
    steps=[
        compensatable("write", lambda it: Write(it.id), compensation=lambda it: Erase(it.id)),
        retriable("sign", lambda it: Sign(it.id)),
    ],
)

LOCKED = "the compensation of step 'write' finds a lock"
Handle = Callable[[AsyncSession, Any, Context], Any]


async def write(session: AsyncSession, command: Write, _: Context) -> None:
    session.add(Note(id=command.id, text="dear"))


async def erase(session: AsyncSession, command: Erase, _: Context) -> None:
    await session.delete(await session.get_one(Note, command.id))


async def sign(session: AsyncSession, command: Sign, _: Context) -> None:
    note = await session.get_one(Note, command.id)
    note.text += ", yours"


def check(
    only: str = "", write: Handle = write, erase: Handle = erase, sign: Handle = sign, **more: Any
) -> Checked:
    return check_saga(send, Letter("1"), **desk(write, erase, sign), only=only, **more)


def desk(write: Handle = write, erase: Handle = erase, sign: Handle = sign) -> dict[str, Any]:
    handlers = Handlers("desk")
    for command, handle in ((Write, write), (Erase, erase), (Sign, sign)):
        handlers.on(command)(handle)
    return {"participants": {"desk": handlers}, "schema": Base.metadata}


def test_a_right_saga_passes_and_every_crash_point_is_among_the_ways() -> None:
    checked = check("time 1 of")
    assert checked.missed == []
    words = "\n".join(checked.ways)
    of_others = ("consumer:", "held:", "retention:")  # of brokers, and of what has ended
    everywhere = {
        it for it in crash_points_of(outbox, orchestrator) if not it.startswith(of_others)
    }
    assert {it for it in everywhere if f"dies at {it!r}" not in words} == {
        "outbox: after drain, before commit",
        "outbox: after commit, before bell",
        "inbox: completed, before commit",
        "outside: after before, before the call",
        "outside: after the call, before its result",
        "outside: after its result, before the reply",
    }, "only a saga with later answers and calls comes to these"
    assert {Status.COMPLETED, Status.COMPENSATED} == set(checked.ends.values())
    assert str(checked) == f"{len(checked.ways)} ways tried, 0 of them not reached"


def test_every_way_can_have_the_id_under_which_a_row_knows_its_run() -> None:
    runs: set[str | None] = set()

    async def noting(session: AsyncSession, command: Write, context: Context) -> None:
        runs.add(context.correlation)
        await write(session, command, context)

    run = "0190a000-0000-7000-8000-000000000001"
    check("finds a lock", write=noting, id=run)
    assert runs == {run}


def test_what_a_compensation_may_leave_can_be_ignored() -> None:
    async def cross_out(session: AsyncSession, command: Erase, _: Context) -> None:
        (await session.get_one(Note, command.id)).text = "crossed out"

    with pytest.raises(WayFailed):
        check(LOCKED, erase=cross_out)
    assert check(LOCKED, erase=cross_out, ignore=["notes"]).missed == []
    with pytest.raises(ValueError, match="ignore= names 'note'"):
        check(LOCKED, erase=cross_out, ignore=["note"])


def test_ids_that_a_handler_makes_are_no_difference() -> None:
    async def with_new_id(session: AsyncSession, _command: Write, _: Context) -> None:
        session.add(Note(id=str(uuid.uuid4()), text="dear"))

    async def sign_all(session: AsyncSession, _command: Sign, _: Context) -> None:
        for note in (await session.scalars(select(Note))).all():
            note.text += ", yours"

    checked = check("finds a lock", write=with_new_id, sign=sign_all, erase=_erase_all)
    assert Status.COMPLETED in checked.ends.values()


async def _erase_all(session: AsyncSession, _command: Erase, _: Context) -> None:
    for note in (await session.scalars(select(Note))).all():
        await session.delete(note)


def test_a_mistake_in_a_handler_is_found_with_its_error() -> None:
    async def mistaken(_session: AsyncSession, _command: Sign, _: Context) -> None:
        raise KeyError("oops")

    with pytest.raises(WayFailed, match="KeyError: 'oops'"):
        check(sign=mistaken)


def test_an_invariant_that_does_not_hold_is_found_and_told_with_its_own_words() -> None:
    def short(world: SagaWorld, run: Run) -> None:
        with world.session("desk") as session:
            assert session.query(Note).count() == 0, f"a note stays after {run.status}"

    with pytest.raises(WayFailed, match="does not hold: a note stays after COMPLETED") as failed:
        check(invariant=short)
    assert failed.value.way == "while nothing else goes wrong"
    assert "sent  'sign'  desk.sign.v1" in str(failed.value)


async def test_an_async_test_awaits_the_check_with_async_functions() -> None:
    seen: list[Status] = []

    async def look(_world: object, run: Run) -> None:
        seen.append(run.status)

    checked = await check_saga_async(
        send, Letter("1"), **desk(), invariant=look, only="every message"
    )
    assert len(checked.ways) == 7
    assert seen == [*checked.ends.values()]


def test_ways_that_no_saga_has_are_refused() -> None:
    with pytest.raises(ValueError, match="no way whose words contain 'misspelt'"):
        check("misspelt")


# The library's own mechanisms: without them, the same check of a right saga fails.


def _run_every_action(arrival: Any, found: Any, forgotten: Any, now: Any) -> Verdict:
    verdict = decide(arrival, found, forgotten, now)
    is_answered = isinstance(verdict, Answer) and not arrival.envelope.undoes
    return Runs(()) if is_answered else verdict


@pytest.mark.parametrize("way", ["arrives twice", "arrives again", "first answer", "after deliver"])
def test_an_inbox_that_forgets_what_it_had_is_found(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(transaction, "decide", _run_every_action)
    with pytest.raises(WayFailed, match=r"P2, P3: step .* took effect as action, action") as failed:
        check(way, write=_write_once)
    assert way in failed.value.way


async def _write_once(session: AsyncSession, command: Write, _: Context) -> None:
    await session.merge(Note(id=command.id, text="dear"))
