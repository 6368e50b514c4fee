"""`sagabox watch`: the history of a run, as it happens, until it has ended or is STUCK."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from orchestrator.cli.runs.history import Entry, Teller, history
from orchestrator.cli.runs.ids import InstanceId, path_of, whole_id
from orchestrator.cli.runs.outcomes import how_it_stands, repairs, stuck_steps
from orchestrator.cli.runs.showing import history_removed
from orchestrator.cli.runs.waits import in_the_way, waiting_lines
from orchestrator.cli.terminal.alarm import TimeUp, within
from orchestrator.cli.terminal.client import Api, Url, connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import (
    Json,
    print_command,
    print_json,
    print_paragraph,
)
from orchestrator.cli.terminal.sse import events
from orchestrator.cli.terminal.times import YEAR
from orchestrator.machine.instance import Status
from orchestrator.machine.transition import Happening

ATTEMPTS = 8
"""Connections in a row that bring nothing new, before the watching is given up."""
FIRST_PAUSE = 0.25
"""Seconds before the second connection; each further one in a row doubles it."""
LONGEST_PAUSE = 5.0

_LASTING = 10.0  # seconds; where a heartbeat came after them, the connection was no failure


def watch(
    instance_id: InstanceId,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, max=YEAR, metavar="SECONDS", help="Watch for so long at most."),
    ] = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Tell what happens to a run until it has ended or is STUCK, from its beginning.

    While nothing happens, it tells what the run waits for, where something is in its way. A
    connection that breaks is made again, and nothing is told twice. The exit code tells how the run
    stands then: 0 is COMPLETED. With --json the history and the run are printed at the end.
    """
    with connect(url) as api:
        watched = _Watched(api, instance_id, is_silent=json_)
        try:
            with within(timeout):
                watched.to_end()
        except TimeUp:
            code = ExitCode.TIME_UP
        else:
            code = how_it_stands(watched.saga)
    if json_:
        print_json({"saga": watched.saga or None, "events": watched.told})
    else:
        _print_end(watched, code, timeout)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


class _Watched:
    """A run that is watched: what was told of it, and how it stood when it was looked at last
    (`saga`; empty before)."""

    def __init__(self, api: Api, typed: str, *, is_silent: bool) -> None:
        self.told: list[Entry] = []
        self.saga: dict[str, Any] = {}
        self.id = typed
        self._api = api
        self._is_silent = is_silent
        self._waiting = _Waiting()

    def to_end(self) -> None:
        """Tell each entry once, until the run has ended or is STUCK. Raises CommandError where
        there is no such run, or the orchestrator stays away."""
        self.id = whole_id(self._api, self.id, "sagabox watch")
        self._look()
        self.id = self.saga["id"]
        if not self._is_silent and (gone := history_removed(self.saga, self._api.now)):
            print_paragraph(f"its history was {gone}")
        teller = Teller(self.saga)
        for entry in follow(self._api, self.id, is_over=self._is_stuck):
            self.told.append(entry)
            if not self._is_silent:
                print_paragraph(teller.line(entry))
        if self.saga["status"] != Status.STUCK:
            self._look()

    def _look(self) -> None:
        self.saga = self._api.get(path_of(self.id))

    def _is_stuck(self) -> bool:
        self._look()
        if self.saga["status"] == Status.STUCK:
            return True
        if not self._is_silent:
            self._waiting.tell(self.saga)
        return False


def _print_end(watched: _Watched, code: ExitCode, timeout: float | None) -> None:
    id, status = watched.id, watched.saga.get("status", "not known of yet")
    match code:
        case ExitCode.TIME_UP:
            print_paragraph(f"{id} is {status} after {timeout:g} s; next: sagabox watch {id}")
        case ExitCode.STUCK:
            print_paragraph(f"{id} is STUCK: a person is needed", style="red")
            for step in stuck_steps(watched.saga):
                print_paragraph(f"  {step['name']}: {step['reason']}", style="red")
            for command in (f"sagabox show {id}", *repairs(watched.saga)):
                print_command(command)
        case _:
            print_paragraph(f"{id} ended {status}")


def follow(
    api: Api,
    instance_id: str,
    pause: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[Entry]:
    """The entries of the run's history, each once and in order, until the run has ended.

    `is_over` is asked after each entry that says STUCK, and at each sign of life of a stream in
    which nothing happens; where it says so, what is there of the history is the end.

    Raises CommandError after ATTEMPTS connections in a row that brought nothing.
    """
    last: str | None = None
    happening = ""
    failures = 0
    heard_at = monotonic()
    stopped = False

    def noting(lines: Iterator[str]) -> Iterator[str]:
        nonlocal heard_at, stopped
        for line in lines:
            heard_at = monotonic()
            if line.startswith(":") and (stopped := is_over()):
                return
            yield line

    while True:
        before, failure, stopped = last, None, False
        began = heard_at = monotonic()
        try:
            with api.stream(f"/sagas/{instance_id}/events", last_event_id=last) as lines:
                for event in events(noting(lines)):
                    # A server that was asked for the entries after `last` may still begin with it.
                    if event.id is not None and _is_after(event.id, last):
                        entry = json.loads(event.data)
                        last, happening = event.id, entry["happening"]
                        yield entry
                        if happening == Happening.STUCK and (stopped := is_over()):
                            break
            if stopped:
                for entry in history(api, instance_id, after=last):
                    last = str(entry["number"])
                    yield {"status": Status.STUCK.value, **entry}
                return
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


class _Waiting:
    """What the run was told to wait for last."""

    def __init__(self) -> None:
        self._told: list[tuple[str, str, str | None]] = []

    def tell(self, saga: dict[str, Any]) -> None:
        """Tell what is in the way of the run, if that is news."""
        found = in_the_way(saga)
        if found != self._told:
            for line in waiting_lines(saga):
                print_paragraph(f"  waits: {line}", style="yellow")
        self._told = found
