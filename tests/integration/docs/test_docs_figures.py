"""The tables, limits and options in the documentation are those of the code."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, assert_never

import pytest
import typer
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.api.waits import WaitsFor
from orchestrator.cli import main
from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.terminal.errors import ExitCode
from orchestrator.definition.steps import Kind
from orchestrator.machine.instance import Direction, Instance, Status, StepStatus, Wait
from orchestrator.machine.machine import advance, start
from orchestrator.machine.operator_rules import allowed_signals
from orchestrator.machine.signals import Buried, Replied, Signal, TimerFired, TimerKind
from outbox import Outcome, Reply
from outbox.chassis.settings import documented
from outbox.replies import PENDING
from outbox.tables import outbox, outbox_dead
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import migrated
from tests.support.outbox.letters import a_letter, an_id, of_saga
from tests.support.processes.cli import sagabox
from tests.support.repository.manual import blocks, commands, rows

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from shop.saga import Placing, place_order

OPERATING = "docs/operate/operating.md"
SEMANTICS = "docs/reference/semantics.md"
RUN = "0190a000-0000-7000-8000-000000000001"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


# Limits


def _worded(value: Any) -> set[str]:
    """How a limit may be written."""
    match value:
        case timedelta():
            minutes = value // timedelta(minutes=1)
            return {f"{value.days} days", f"{minutes} minutes"}
        case float():
            return {f"{value:g}"}
        case tuple():
            return {str(len(value))}
        case _:
            kib = f"{value // 1024} KiB" if value % 1024 == 0 else ""
            mib = f"{value // 1024**2} MiB" if value % 1024**2 == 0 else ""
            return {str(value), f"{value:,}", kib, mib}


def _in_code(name: str) -> Any:
    """The value of `package.module.NAME`, or of the default of `package.module.Class.field`."""
    path, _, last = name.rpartition(".")
    try:
        return getattr(import_module(path), last)
    except ModuleNotFoundError:
        return getattr(_in_code(path)(), last)


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    settings = {
        setting.variable: setting.default
        for service in SERVICES.values()
        for setting in documented(service.settings_model())
    }
    found = rows(OPERATING, "limits")
    assert len(found) == 74
    for what, limit, where in found:
        name = where.strip("`")
        value = float(settings[name] or "") if name in settings else _in_code(name)
        assert limit in _worded(value), (what, limit, value)


def test_the_words_for_what_a_run_waits_for_are_those_of_the_code_in_their_order() -> None:
    found = [word.strip("`") for word, _ in rows("docs/guide/sagas.md", "waits for")]
    assert found == [it.value for it in WaitsFor]


def test_the_exit_codes_on_the_page_are_those_of_the_code() -> None:
    found = [
        (int(code), name.strip("`")) for code, name, _ in rows("docs/operate/cli.md", "exit codes")
    ]
    assert found == [(it.value, it.name) for it in ExitCode]


# What a run does with each answer


_REPLIES: Mapping[str, Mapping[str, Any]] = {
    "stock.reserve.v1": {"total": 80_00},
    "payments.charge.v1": {},
    "stock.ship.v1": {},
}


def _answered(instance: Instance[Placing], kind: Kind | None) -> Instance[Placing]:
    """The run, brought to where the step of that kind awaits its first answer; None is for the
    compensation of the first step."""
    wanted = {
        Kind.COMPENSATABLE: "reserve stock",
        Kind.PIVOT: "charge card",
        Kind.RETRIABLE: "ship",
        None: "reserve stock",
    }[kind]
    for _ in range(10):
        (name,) = [it for it, run in instance.steps.items() if run.awaited is not None]
        awaited = instance.steps[name].awaited
        assert awaited is not None
        if name == wanted and awaited.is_undo is (kind is None):
            return instance
        is_pivot = name == "charge card"
        no = Reply(Outcome.REFUSED, code="no", reason="no")
        yes = Reply(Outcome.DONE, value=_REPLIES[awaited.type])
        reply = no if is_pivot and kind is None else yes
        instance = advance(place_order, instance, Replied(awaited.id, reply), NOON).instance
    raise AssertionError(kind)


def _led_to(before: Instance[Placing], signal: Signal, name: str) -> str:
    """The word of the page for what the signal leads to."""
    was_back = before.direction is Direction.BACKWARD
    transition = advance(place_order, before, signal, NOON)
    after = transition.instance
    run = after.steps[name]
    if after.direction is Direction.BACKWARD and not was_back:
        return "back, refused" if run.status is StepStatus.REFUSED else "back, in doubt"
    if run.status in {StepStatus.DONE, StepStatus.UNDONE, StepStatus.STUCK}:
        return run.status.lower()
    assert run.awaited is not None
    match run.awaited.wait:
        case Wait.REPEAT:
            return "again"
        case Wait.ANEW:
            return "new"
        case Wait.ACCEPTED:
            return "later"
        case Wait.SENDING | Wait.ANSWER:
            return "again" if transition.commands else "waits"
        case _:
            assert_never(run.awaited.wait)


_OTHER_ANSWERS: Mapping[str, Callable[[str], Signal]] = {
    "`ongoing`, pending": lambda id: Replied(id, Reply(Outcome.ONGOING, code=PENDING)),
    "`refused`, after pending": lambda id: Replied(id, Reply(Outcome.REFUSED, after_pending=True)),
    "a dead letter": lambda id: Buried(id, "given up"),
    "the deadline": lambda id: TimerFired(TimerKind.DEADLINE, id),
}


def _signal(word: str) -> Callable[[str, str], Signal]:
    """What has to happen, as a function of the awaited command's id and type."""
    if word in _OTHER_ANSWERS:
        return lambda id, _: _OTHER_ANSWERS[word](id)
    outcome = Outcome(word.strip("`"))
    return lambda id, type: Replied(
        id, Reply(outcome, value=_REPLIES.get(type) if outcome is Outcome.DONE else None)
    )


def test_the_table_of_answers_is_what_the_machine_does() -> None:
    table = {row[0]: row[1:] for row in rows(SEMANTICS, "answers")}
    assert set(table) == {*(f"`{it}`" for it in Outcome), *_OTHER_ANSWERS}
    begun = start(place_order, RUN, Placing("order 7", card="1234"), NOON).instance
    found: dict[str, list[str]] = {word: [] for word in table}
    for kind in (*Kind, None):
        before = _answered(begun, kind)
        ((name, run),) = [it for it in before.steps.items() if it[1].awaited is not None]
        assert run.awaited is not None
        for word, led_to in found.items():
            signal = _signal(word)(run.awaited.id, run.awaited.type)
            led_to.append(_led_to(before, signal, name))
    assert found == table


def test_cancel_is_possible_on_a_stuck_run_before_the_point_of_no_return() -> None:
    begun = start(place_order, RUN, Placing("order 7", card="1234"), NOON).instance
    awaited = begun.steps["reserve stock"].awaited
    assert awaited is not None
    broken = Replied(awaited.id, Reply(Outcome.DONE, value={"total": "much"}))
    stuck = advance(place_order, begun, broken, NOON).instance
    assert stuck.status is Status.STUCK
    assert "cancel" in allowed_signals(place_order, stuck)


# Options of commands that need another machine


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("orchestrator")


def _parse(words: list[str]) -> None:
    """Read options and arguments as a call does. Raises where they do not fit."""
    command: Any = typer.main.get_command(main)
    context = command.make_context("sagabox", list(words))
    while isinstance(command, typer.core.TyperGroup):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
        words = [*context._protected_args, *context.args]


@pytest.mark.databases("sqlite")
def test_the_commands_for_other_machines_are_ones_that_the_terminal_takes(
    database: Database,
) -> None:
    found = commands(OPERATING, "sh")
    assert len(found) == 13
    there = "postgresql://sagabox@db/orchestrator"
    for command in found:
        words = shlex.split(command)
        assert words[0] == "sagabox"
        if words[1] in ("migrate", "token"):
            told = sagabox(
                *(database.url if it == there else it for it in words[1:]),
                SAGABOX_DATABASE_URL_ORCHESTRATOR=database.url,
            )
            assert told.code == 0, (command, told)
        else:
            _parse(words[1:])
    with pytest.raises(Exception, match="No such option"):
        _parse(["serve", "orchestrator", "--no-such-option"])


# Snippets


@pytest.mark.databases("sqlite")
async def test_the_program_on_the_page_sends_dead_letters_again(
    database: Database, engine: AsyncEngine, tmp_path: Path
) -> None:
    program, _ = blocks(OPERATING, "python")
    (tmp_path / "program.py").write_text(program)
    async with engine.begin() as connection:
        await connection.execute(insert(outbox_dead), [a_letter(1), of_saga(2) | {"id": an_id(2)}])
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "program.py", database.url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(rf"^{an_id(1)} comments articles\S+ reason 1$", ran.stdout, re.M)
    assert ran.stdout.endswith("1 sent again\n")
    async with engine.connect() as connection:
        assert list(await connection.scalars(select(outbox_dead.c.id))) == [an_id(2)]
        assert list(await connection.scalars(select(outbox.c.id))) == [an_id(1)]
