"""`sagabox show`: one run, with its steps, and what can be done to it now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from orchestrator.cli.runs.history import Teller
from orchestrator.cli.runs.history import history as entries_of
from orchestrator.cli.runs.ids import InstanceId, path_of, whole_id
from orchestrator.cli.runs.outcomes import cause, stuck_steps
from orchestrator.cli.runs.waits import awaits, print_waiting
from orchestrator.cli.terminal.client import Url, connect
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import (
    Json,
    print_command,
    print_fields,
    print_json,
    print_line,
    print_paragraph,
    print_table,
)
from orchestrator.cli.terminal.refusals import operator_command
from orchestrator.cli.terminal.times import to_the_second, with_age
from outbox.wire import strict_json

_STEPS = (
    Column("step", least=10),
    Column("kind"),
    Column("status"),
    Column("attempts"),
    Column("participant", least=11),
)

CALL_IN_DOUBT = "its call ended without an answer"
"""The words of a participant whose call to the outside may have had its effect, and is not made
again."""


def show(
    instance_id: InstanceId,
    history: Annotated[
        bool, typer.Option("--history", help="Also what happened to it, oldest first.")
    ] = False,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Show a run: its state, its steps, and what can be done to it now."""
    with connect(url) as api:
        asked = whole_id(api, instance_id, "sagabox show")
        saga: dict[str, Any] = api.get(path_of(asked))
        entries = list(entries_of(api, saga["id"])) if history else []
        now = api.now
    if json_:
        print_json({**saga, "history": entries} if history else saga)
        return
    if saga["id"] != asked.lower():
        print_paragraph(f"{asked} began no run of its own: this one was active already")
    _print_saga(saga, now)
    if history:
        print_line("")
    teller = Teller(saga)
    for entry in entries:
        print_paragraph(teller.line(entry))


def _print_saga(saga: Mapping[str, Any], now: datetime) -> None:
    print_fields(
        [
            ("id", saga["id"]),
            ("saga", f"{saga['name']} v{saga['version']}"),
            ("status", saga["status"]),
            ("paused", "yes" if saga["paused"] else None),
            ("parked", saga["parked"]),
            ("key", saga["key"]),
            ("originator", saga["originator"]),
            ("begins", with_age(saga["begin_at"], now)),
            ("created", with_age(saga["created_at"], now)),
            ("updated", with_age(saga["updated_at"], now)),
            ("ended", with_age(saga["ended_at"], now)),
            ("archived", _archived(saga, now)),
            ("history", history_removed(saga, now)),
            ("state", strict_json.dumps(saga["state"]).decode()),
            ("because", cause(saga)),
            ("not undone", ", ".join(saga["not_undone"])),
            *(("stray effect", _stray(it)) for it in saga.get("stray_effects", ())),
        ]
    )
    print_line("")
    steps = saga["steps"]
    print_table(
        _STEPS,
        [(it["name"], it["kind"], it["status"], it["attempts"], it["participant"]) for it in steps],
        [(("awaits", awaits(it["awaited"])), ("reason", _reason(it))) for it in steps],
    )
    print_waiting(saga)
    if commands := list(_possible(saga)):
        print_line("")
        print_line("possible now:")
        for command in commands:
            print_command(command)


def _reason(step: Mapping[str, Any]) -> str | None:
    """Why it was refused, or stands still; None where that is told as what is in the way."""
    reason: str | None = step["reason"]
    return None if step.get("waits_for") == "operator" else reason


def _possible(saga: Mapping[str, Any]) -> Iterator[str]:
    """The commands that are possible now. What its participant has not answered is answered there,
    and that comes first: to retry it brings the same again."""
    for step in saga["steps"]:
        awaited = step["awaited"] or {}
        if awaited.get("pending") or CALL_IN_DOUBT in (step["reason"] or ""):
            service = f"MODULE:{step['participant'] or 'SERVICE'}"
            id = awaited.get("id", "COMMAND")
            yield f"sagabox pending complete {service} {id} --value JSON --reason REASON"
    is_one = len(stuck_steps(saga)) == 1
    for verb in saga["allowed"]:
        yield operator_command(saga["id"], verb, names_step=not is_one)


def _archived(saga: Mapping[str, Any], now: datetime) -> str | None:
    where = saga.get("archived")
    return where and f"{with_age(where['at'], now)}, {where['file']} in {where['place']}"


def history_removed(saga: Mapping[str, Any], now: datetime) -> str | None:
    """That its history was removed before it, and where it is now; None where it was not."""
    told = saga.get("history_removed")
    if not told:
        return None
    place, file = told["place"], told["file"]
    where = "for good" if place is None else f"to {file} in {place}"
    return f"removed by retention {with_age(told['at'], now)}, {where}"


def _stray(effect: Mapping[str, Any]) -> str:
    at = to_the_second(effect["at"])
    return f"{effect['step']}, command {effect['command_id']}, told at {at}"
