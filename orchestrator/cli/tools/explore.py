"""`sagabox explore`: every way that a run of a saga can go, without any service."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import Json, print_fields, print_json, print_line, print_table
from orchestrator.cli.tools.coverage import gaps, print_gaps
from orchestrator.testing.coverage import Tool
from orchestrator.testing.exploring.model.faults import USUAL, Faults
from outbox.spelling import safe

if TYPE_CHECKING:
    from orchestrator.definition.saga import Saga
    from orchestrator.testing import Exploration, Violation

_MOST = 9  # of one fault; more of them than two or three take hours anyway
_MADE_BY_US = "must not break this promise again"


def _bound(help: str) -> Any:
    return typer.Option(min=0, max=_MOST, metavar="N", help=help, rich_help_panel="How often")


def explore(
    name: Annotated[
        str, typer.Argument(metavar="SAGA", help="Which saga: its name, or module:attribute.")
    ],
    version: Annotated[
        int | None, typer.Option(metavar="V", help="Which version; otherwise the latest.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON", help="The run's input; otherwise one is made up."),
    ] = None,
    invariant: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:FUNCTION", help="What must hold everywhere; may be repeated."),
    ] = None,
    crashes: Annotated[int, _bound("The orchestrator dies, and comes back.")] = USUAL.crashes,
    duplicates: Annotated[int, _bound("A message arrives twice.")] = USUAL.duplicates,
    losses: Annotated[int, _bound("A message never arrives.")] = USUAL.losses,
    late: Annotated[int, _bound("A deadline passes before the answer.")] = USUAL.late,
    accepted: Annotated[
        int, _bound("The way only takes a command; the answer is a message.")
    ] = USUAL.accepted,
    refusals: Annotated[int, _bound("What must succeed is refused.")] = USUAL.refusals,
    locks: Annotated[int, _bound("Another operation holds the entity.")] = USUAL.locks,
    ongoing: Annotated[int, _bound("The work goes on elsewhere.")] = USUAL.ongoing,
    expiries: Annotated[int, _bound("A command comes too late to be run.")] = USUAL.expiries,
    burials: Annotated[int, _bound("A command becomes a dead letter.")] = USUAL.burials,
    cancels: Annotated[int, _bound("A person cancels the run.")] = USUAL.cancels,
    retries: Annotated[int, _bound("A person has a stuck step tried again.")] = USUAL.retries,
    skips: Annotated[int, _bound("A person skips a stuck step.")] = USUAL.skips,
    pauses: Annotated[int, _bound("A person pauses and resumes the run.")] = USUAL.pauses,
    terminations: Annotated[int, _bound("A person terminates the run.")] = USUAL.terminations,
    resolutions: Annotated[int, _bound("A person resolves a stuck run.")] = USUAL.resolutions,
    later: Annotated[int, _bound("The run is started for later.")] = USUAL.later,
    pendings: Annotated[int, _bound("An answer comes later.")] = USUAL.pendings,
    calls: Annotated[int, _bound("A participant calls the outside.")] = USUAL.calls,
    hangs: Annotated[int, _bound("Such a call gets no answer in its time.")] = USUAL.hangs,
    removals: Annotated[
        int, _bound("Retention removes the run, its id or its key.")
    ] = USUAL.removals,
    starts: Annotated[int, _bound("The start of the run comes again.")] = USUAL.starts,
    at_most: Annotated[
        int, typer.Option(min=1, metavar="N", help="Give up above so many worlds.")
    ] = 1_000_000,
    pytest: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, metavar="FILE", help="Write what breaks a promise as a test there."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Try every way that a run of a saga can go: each order, crash, loss and cancel.

    It runs the saga's own functions and the real state machine; participants and
    network are abstract, so it needs no service and no database.

    Ends with 0 if every promise held everywhere; with 1, and the story of how it
    comes, if one was broken. Finds sagas as `sagabox serve orchestrator` does.
    """
    given = dict(locals())
    faults = Faults(**{field.name: given[field.name] for field in fields(Faults)})
    saga = find_saga(name, version)
    state = _input(saga, input_)
    if pytest is not None:
        _require_ours(pytest)
    found, seconds = _explored(
        saga, state, faults, list(map(_function, invariant or ())), at_most, quiet=json_
    )
    violation = found.violation
    written = None
    if violation is not None and pytest is not None:
        _write(pytest, violation.as_pytest(name if ":" in name else None))
        written = str(pytest)
    if json_:
        print_json(_document(saga, state, faults, found, seconds, written))
    else:
        _print(saga, state, faults, found, seconds, written)
    if violation is not None:
        raise typer.Exit(ExitCode.OTHERWISE)


# Finding the saga


def find_saga(name: str, version: int | None = None) -> Saga[Any]:
    """The saga of that name, or at module:attribute. Raises CommandError or InvalidSettings."""
    from orchestrator.cli.processes import bundle
    from orchestrator.cli.processes.services import blog_defaults
    from orchestrator.discovery import discover

    bundle.put_on_path()
    if ":" in name:
        return discover(name)[0]
    variable = "SAGABOX_SAGAS"
    names = os.environ.get(variable) or blog_defaults(os.environ).get(variable, "")
    sagas = discover(names)
    named = [it for it in sagas if it.name == name and version in (None, it.version)]
    if not named:
        wanted = name if version is None else f"{name} v{version}"
        known = ", ".join(sorted(map(str, sagas))) or "none"
        raise CommandError(
            f"there is no saga {wanted!r:.100}",
            f"found are: {known}",
            "sagabox explore module:attribute, or name the saga in SAGABOX_SAGAS",
        )
    return max(named, key=lambda it: it.version)


def _input(saga: Saga[Any], text: str | None) -> Any:
    from orchestrator.testing import sample_input
    from outbox.errors import InvalidMessage
    from outbox.wire import strict_json
    from outbox.wire.codec import decode_value

    if text is None:
        return sample_input(saga)
    try:
        return decode_value(saga.state, strict_json.loads(text.encode()))
    except (ValueError, InvalidMessage) as error:
        why = error.problem if isinstance(error, InvalidMessage) else f"it is no JSON ({error})"
        raise CommandError(
            "--input is no input of this saga",
            safe(why),
            f"give an object with the fields of {saga.state.__name__}",
        ) from error


def _function(path: str) -> Callable[[Any], bool | str]:
    from importlib import import_module

    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
        if not callable(found):
            raise TypeError(f"{name} is a {type(found).__name__}")
    except Exception as error:
        raise CommandError(
            f"there is no invariant {path!r:.200}",
            safe(f"{type(error).__name__}: {error}"),
            "write it as in shop.rules:never_charged_twice, a function of one argument",
        ) from error
    checked: Callable[[Any], bool | str] = found
    return checked


def _explored(
    saga: Saga[Any],
    state: Any,
    faults: Faults,
    invariants: list[Callable[[Any], bool | str]],
    at_most: int,
    *,
    quiet: bool,
) -> tuple[Exploration, float]:
    from orchestrator.testing import explore as explored

    began = time.monotonic()
    with _progress(quiet) as progress:
        found = explored(
            saga, state, faults=faults, invariants=invariants, at_most=at_most, progress=progress
        )
    return found, time.monotonic() - began


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress display, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    with console.status("exploring") as status:

        def show(worlds: int, edges: int) -> None:
            status.update(f"exploring: {worlds:,} worlds, {edges:,} edges")

        yield show


# Output


def _document(
    saga: Saga[Any],
    state: Any,
    faults: Faults,
    found: Exploration,
    seconds: float,
    written: str | None,
) -> dict[str, Any]:
    from outbox.wire.codec import encode_value

    return {
        "saga": saga.name,
        "version": saga.version,
        "input": encode_value(state),
        "faults": asdict(faults),
        "worlds": found.worlds,
        "edges": found.edges,
        "seconds": round(seconds, 3),
        "ends": sorted(found.ends),
        "steps": {
            name: {
                "answers": sorted(it.answers),
                "undo_answers": sorted(it.undo_answers),
                "statuses": sorted(it.statuses),
            }
            for name, it in found.covered.items()
        },
        "violation": None if found.violation is None else _told(found.violation),
        "pytest": written,
        "not_covered": gaps(Tool.EXPLORE),
    }


def _told(violation: Violation) -> dict[str, Any]:
    return {
        "promise": violation.promise,
        "problem": violation.problem,
        "story": list(violation.played.lines),
    }


def _print(
    saga: Saga[Any],
    state: Any,
    faults: Faults,
    found: Exploration,
    seconds: float,
    written: str | None,
) -> None:
    from outbox.wire.codec import encode_value

    tried = ", ".join(f"{many} {name}" for name, many in asdict(faults).items() if many)
    print_fields(
        (
            ("saga", saga),
            ("input", json.dumps(encode_value(state), ensure_ascii=False)),
            ("with up to", tried or "no faults"),
            ("worlds", f"{found.worlds:,}"),
            ("edges", f"{found.edges:,}"),
            ("seconds", f"{seconds:.1f}"),
            ("ends", ", ".join(sorted(found.ends))),
        )
    )
    print_line("")
    print_table(
        ("STEP", "ANSWERS", "ANSWERS TO ITS UNDO"),
        (
            (name, ", ".join(sorted(it.answers)), ", ".join(sorted(it.undo_answers)))
            for name, it in found.covered.items()
        ),
    )
    print_line("")
    print_gaps(Tool.EXPLORE)
    print_line("")
    if found.violation is None:
        print_line("Every promise held, everywhere.", style="green")
        return
    head, *lines = found.violation.story.splitlines()
    print_line(head, style="bold red")
    for line in lines:
        print_line(line)
    if written is not None:
        print_line(f"As a test: {written}")


# The written test


def _require_ours(file: Path) -> None:
    """Refuse to write over a file that this command did not write."""
    if file.exists() and _MADE_BY_US not in file.read_text("utf-8", errors="replace"):
        raise CommandError(
            f"{file} is there already",
            "it is no test that sagabox wrote, so it is not written over",
            "name another file",
        )


def _write(file: Path, source: str) -> None:
    try:
        file.write_text(source, "utf-8")
    except OSError as error:
        raise CommandError(
            f"{file} cannot be written", str(error.strerror), "name another file"
        ) from error
