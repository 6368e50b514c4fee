"""`sagabox watch`: the history of a run, as it happens, until it has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.runs.waits import in_the_way, waiting_lines
from orchestrator.cli.terminal.client import Api, Url, connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import Json, print_json, print_line, status_text
from orchestrator.cli.terminal.refusals import operator_command
from orchestrator.cli.terminal.sse import events
from orchestrator.machine.instance import Status
from orchestrator.machine.transition import Happening
from outbox.spelling import safe

ATTEMPTS = 8
"""Connections in a row that bring nothing new, before the watching is given up."""
FIRST_PAUSE = 0.25
"""Seconds before the second connection; each further one in a row doubles it."""
LONGEST_PAUSE = 5.0

_LASTING = 10.0  # seconds; where a heartbeat came after them, the connection was no failure
_REPAIRS = ("retry", "skip", "resolve", "terminate")

Entry = Mapping[str, Any]
"""One line of a run's history, with the run's `status` at that time."""


def watch(
    instance_id: Annotated[str, typer.Argument(metavar="ID", help="The run's id.")],
    json_: Json = False,
    url: Url = None,
) -> None:
    """Tell what happens to a run until it has ended, from its beginning.

    While nothing happens, it tells what the run waits for, where something is in its way. A
    connection that breaks is made again, and nothing is told twice. Ends with 0 if the run ended
    COMPLETED, with 1 if it ended otherwise. With --json the history and the run are printed at the
    end.
    """
    with connect(url) as api:
        if json_:
            saga, told = watch_to_end(api, instance_id, _ignore, _ignore)
        else:
            saga, told = watch_to_end(api, instance_id, _tell, _Waiting().tell)
    if json_:
        print_json({"saga": saga, "events": told})
    else:
        print_line(f"{saga['id']} ended {saga['status']}")
    if saga["status"] != Status.COMPLETED:
        raise typer.Exit(ExitCode.OTHERWISE)


def watch_to_end(
    api: Api,
    instance_id: str,
    tell: Callable[[Entry], None],
    tell_still: Callable[[Entry], None],
) -> tuple[dict[str, Any], list[Entry]]:
    """Follow the run, and tell each entry once; `tell_still` hears how the run stands whenever
    nothing has happened for a while. Returns the run as it ended, and all its entries.

    Raises CommandError where there is no such run, or the orchestrator stays away.
    """
    saga: dict[str, Any] = api.get(f"/sagas/{quote(instance_id, safe='')}")
    told: list[Entry] = []

    def look() -> None:
        tell_still(api.get(f"/sagas/{saga['id']}"))

    for entry in follow(api, saga["id"], quiet=look):
        told.append(entry)
        tell(entry)
    return api.get(f"/sagas/{saga['id']}"), told


def follow(
    api: Api,
    instance_id: str,
    pause: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    quiet: Callable[[], None] = lambda: None,
) -> Iterator[Entry]:
    """The entries of the run's history, each once and in order, until the run has ended. `quiet` is
    called at each sign of life of a stream in which nothing happens.

    Raises CommandError after ATTEMPTS connections in a row that brought nothing.
    """
    last: str | None = None
    happening = ""
    failures = 0
    heard_at = monotonic()

    def noting(lines: Iterator[str]) -> Iterator[str]:
        nonlocal heard_at
        for line in lines:
            heard_at = monotonic()
            if line.startswith(":"):
                quiet()
            yield line

    while True:
        before, failure = last, None
        began = heard_at = monotonic()
        try:
            with api.stream(f"/sagas/{instance_id}/events", last_event_id=last) as lines:
                for event in events(noting(lines)):
                    # A server that was asked for the entries after `last` may still begin with it.
                    if event.id is not None and _is_after(event.id, last):
                        entry = json.loads(event.data)
                        last, happening = event.id, entry["happening"]
                        yield entry
            # Streams also end when the orchestrator does, and then entries may be missing.
            is_complete = happening == Happening.ENDED or last == before
            if is_complete and api.get(f"/sagas/{instance_id}")["ended_at"] is not None:
                return
        except CommandError as error:
            if error.exit_code is not ExitCode.UNREACHABLE:
                raise
            failure = error
        if last != before or heard_at - began >= _LASTING:
            failures = 0
            continue
        failures += 1
        if failures == ATTEMPTS:
            raise _gave_up(instance_id, failure)
        pause(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (failures - 1)))


def _is_after(number: str, last: str | None) -> bool:
    return number.isdecimal() and (last is None or int(number) > int(last))


def _gave_up(instance_id: str, failure: CommandError | None) -> CommandError:
    return CommandError(
        f"the stream of {instance_id} broke {ATTEMPTS} times in a row",
        str(failure) if failure else "the orchestrator closed it each time, and the run goes on",
        f"sagabox watch {instance_id}",
        exit_code=ExitCode.UNREACHABLE,
    )


def entry_line(entry: Entry) -> str:
    """One line of the history, for people."""
    by = f" by {entry['actor']}" if entry.get("actor") else ""
    step = f" [{entry['step']}]" if entry.get("step") else ""
    detail = f": {entry['detail']}" if entry.get("detail") else ""
    return safe(f"{entry['at']}  {entry['happening']}{step}{by}{detail}")


def repairs(saga: Mapping[str, Any]) -> str:
    """The commands by which an operator may repair a stuck run."""
    return " | ".join(
        operator_command(saga["id"], verb) for verb in saga["allowed"] if verb in _REPAIRS
    )


def outcome(saga: dict[str, Any]) -> str:
    """The run's status and what to do, as one line."""
    match saga["status"]:
        case Status.STUCK:
            return f"{status_text(saga)}; next: {repairs(saga) or 'sagabox show ' + saga['id']}"
        case _ if saga["ended_at"] is None:
            return f"{status_text(saga)}; next: sagabox watch {saga['id']}"
        case _:
            return status_text(saga)


def _tell(entry: Entry) -> None:
    print_line(entry_line(entry))
    if entry.get("status") == Status.STUCK and entry["happening"] == Happening.STUCK:
        print_line("  a person is needed: sagabox show ID names what is possible", style="red")


class _Waiting:
    """What the run was told to wait for last."""

    def __init__(self) -> None:
        self._told: list[tuple[str, str, str | None]] = []

    def tell(self, saga: Entry) -> None:
        """Tell what is in the way of the run, if that is news."""
        found = in_the_way(saga)
        if found != self._told:
            for line in waiting_lines(saga):
                print_line(f"  waits: {line}", style="yellow")
        self._told = found


def _ignore(_: Entry) -> None:
    pass
