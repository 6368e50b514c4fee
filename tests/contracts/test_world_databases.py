"""A world is the same on every database that its participants may have: it finds the same bugs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator.machine.instance import Status
from orchestrator.testing import AsyncSagaWorld, Checked, Run, SagaWorld, WayFailed, check_saga
from outbox import Context, Refused
from outbox.inbox.barrier import decide
from outbox.inbox.rows import Answer, Verdict
from outbox.inbox.rows import Run as Runs
from outbox.inbox.transactions import transaction
from tests.support.orchestrator.desk import (
    Erase,
    Kind,
    Letter,
    Page,
    Sign,
    Wish,
    desk,
    erase,
    letter_named,
    on_loop,
    plain,
    prepare,
    send,
)


@pytest.fixture
def saga_database(world_database: str | None) -> str | None:
    return world_database


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
    checked = check("the handler of step 'write' fails twice", kind=kind)
    assert list(checked.ends.values()) == [Status.COMPLETED] * 2


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
        letter_named(session, command.name).text = f"try {context.attempt}"

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
