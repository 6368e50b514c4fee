"""The supervisor of services: starts them, prints their output, and restarts those that ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cli.processes.child import START_TIMEOUT, Child, Spec
from orchestrator.cli.processes.logs import Follower
from orchestrator.cli.terminal.errors import CommandError

STARTED_WITHIN = START_TIMEOUT
"""Seconds after which one that is not ready is told. It is waited for as long as it runs."""
FIRST_DELAY = 0.5
"""Seconds before the first restart; each further one in a row doubles it."""
LONGEST_DELAY = 10.0
"""Seconds that a restart waits at most."""
_SETTLED = 30.0  # seconds of running after which the next end counts as the first again
_LOOK = 0.2  # seconds between two looks into the logs
_RELOAD_LOOK = 1.0  # seconds between two looks at the source files

Tell = Callable[[str, str], None]
"""A printer of one line by a speaker (a service, or "dev")."""


def delay_before_restart(ends_in_a_row: int) -> float:
    """The seconds to wait after that many ends (1 is the first)."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(ends_in_a_row - 1, 20))


class Supervisor:
    """The supervisor of the services of `specs`, until it is told to stop.

    `sources` are folders of Python files: a change in one restarts all services. `when_up` is
    called once, when each service has been ready.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        tell: Tell,
        sources: Sequence[Path] = (),
        when_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._specs = specs
        self._tell = tell
        self._sources = sources
        self._when_up = when_up
        self._not_up_yet = {it.name for it in specs}
        self._stop = asyncio.Event()
        self._reload = {it.name: asyncio.Event() for it in specs}
        self._children: dict[str, Child] = {}

    def stop(self) -> None:
        """End all services and return from `run`. A second call kills what still runs."""
        if self._stop.is_set():
            for child in self._children.values():
                child.send_kill()
        self._stop.set()

    async def run(self) -> None:
        """Run until `stop`. When it returns, or raises, none of the services is running."""
        followers = {it.name: Follower(it.log) for it in self._specs}
        work = [self._follow(followers), self._watch(), *(self._keep(it) for it in self._specs)]
        tasks = [asyncio.create_task(it) for it in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for child in self._children.values():
                await child.kill()
            self._print(followers)

    async def _keep(self, spec: Spec) -> None:
        ends = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            # It starts with the code as it is now.
            self._reload[spec.name].clear()
            child = self._children[spec.name] = await Child.start(spec)
            began = loop.time()
            if await self._runs_until_it_ends(child):
                return
            if self._reload[spec.name].is_set():
                ends = 0
                continue
            ends = 1 if loop.time() - began > _SETTLED else ends + 1
            delay = delay_before_restart(ends)
            self._tell("dev", f"{spec.name} ended ({child.ending}); restarting it in {delay:g} s")
            await _first_of(self._stop.wait(), self._reload[spec.name].wait(), timeout=delay)
            if self._reload[spec.name].is_set():  # it may well be mended
                ends = 0

    async def _runs_until_it_ends(self, child: Child) -> bool:
        """Wait for the end of the child, by itself or by us. Returns whether it is the end for
        good."""
        reload = self._reload[child.spec.name]
        ready = asyncio.create_task(self._say_when_ready(child))
        try:
            await _first_of(child.wait(), self._stop.wait(), reload.wait())
        finally:
            ready.cancel()
        if self._stop.is_set() or reload.is_set():
            await child.stop()
        return self._stop.is_set()

    async def _say_when_ready(self, child: Child) -> None:
        is_told = False
        while True:  # until it is ready or has ended
            try:
                await child.ready(STARTED_WITHIN)
            except CommandError as error:
                if not child.running:
                    return
                if not is_told:
                    why = error.why.partition(";")[0]  # the end of its log is printed anyhow
                    self._tell(
                        "dev",
                        f"{error.happened} yet (pid {child.pid}): {why}; it is waited for, and "
                        f"its own lines or {child.spec.url}/readyz say what it lacks",
                    )
                    is_told = True
            else:
                self._tell("dev", f"{child.spec.name} serves at {child.spec.url} (pid {child.pid})")
                self._note_up(child.spec.name)
                return

    def _note_up(self, name: str) -> None:
        if self._not_up_yet == {name}:
            self._when_up()
        self._not_up_yet.discard(name)

    async def _pause(self, seconds: float) -> None:
        await _first_of(self._stop.wait(), timeout=seconds)

    async def _follow(self, followers: Mapping[str, Follower]) -> None:
        while not self._stop.is_set():
            self._print(followers)
            await self._pause(_LOOK)

    def _print(self, followers: Mapping[str, Follower]) -> None:
        for name, follower in followers.items():
            for line in follower.lines():
                self._tell(name, line)

    async def _watch(self) -> None:
        seen = _stamps(self._sources)
        while self._sources and not self._stop.is_set():
            await self._pause(_RELOAD_LOOK)
            found = _stamps(self._sources)
            if changed := sorted({it for it, _ in set(found.items()) ^ set(seen.items())}):
                self._tell("dev", f"{changed[0].name} has changed; restarting the services")
                for event in self._reload.values():
                    event.set()
            seen = found


async def _first_of(*waits: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
    """Return when the first of them has returned, or the time is up; end the others."""
    tasks = [asyncio.create_task(it) for it in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _stamps(folders: Iterable[Path]) -> Mapping[Path, int]:
    """The time of the last write of each Python file below the folders."""
    stamps = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            try:
                stamps[path] = path.stat().st_mtime_ns
            except FileNotFoundError:  # editors replace files
                continue
    return stamps
