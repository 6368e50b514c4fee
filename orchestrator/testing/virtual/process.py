"""One process of the orchestrator in a history: the real node, on a virtual machine."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from orchestrator.definition.registry import Registry
from orchestrator.engine.dispatcher import Line
from orchestrator.engine.node import Node
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.watchers import Watchers
from orchestrator.retention.worker import Retention
from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.timeline import Step, Timeline
from outbox.crashpoints import Crash
from outbox.ids import Ids
from outbox.transports.base import Transport

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
_TROUBLE = 0.2
_SOON = 0.0001
_NEVER = float("inf")
_CRASHES = {
    "engine": Fault.NODE_CRASH,
    "relay": Fault.NODE_CRASH,
    "consumer": Fault.READER_CRASH,
    "retention": Fault.REMOVER_CRASH,
}


class ProcessClock:
    """The clocks of one process: right in the long run, or wrong by `skew` seconds."""

    def __init__(self, timeline: Timeline) -> None:
        self.skew = 0.0
        self._timeline = timeline

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._timeline.now + self.skew)

    def monotonic(self) -> float:
        return self._timeline.now


class Storage(Protocol):
    """The storage of the orchestrator's runs."""

    engine: Any
    is_local: bool

    def ports(self, clock: ProcessClock) -> EnginePorts:
        """The statements, for a process with that clock."""

    def retention(
        self, clock: ProcessClock, ids: Callable[[], str], owner: str
    ) -> Retention | None:
        """The removal of runs that have ended; None where all runs stay."""


class Process:
    """A process that runs a node until it dies, and then another one. `trace` is told of every
    step."""

    def __init__(
        self,
        name: str,
        timeline: Timeline,
        chances: Chances,
        storage: Storage,
        registry: Registry,
        ways: Callable[[], Mapping[str, Transport]],
        settings: EngineSettings,
        trace: Callable[..., None],
    ) -> None:
        self.name = name
        self.clock = ProcessClock(timeline)
        self.node: Node | None = None
        self._timeline = timeline
        self._chances = chances
        self._storage = storage
        self._registry = registry
        self._ways = ways
        self._settings = settings
        self._trace = trace
        self._life = 0
        self._held_until = 0.0
        self._busy: dict[str, Step] = {}
        self._timers: dict[str, float] = {}
        self._lines: dict[str, Line] = {}
        self._rung: dict[str, int] = {}
        self._failures = 0
        self._retention: Retention | None = None

    # Lifecycle

    async def start(self) -> None:
        """Start a new process in place of the last one."""
        if self.node is not None:
            return
        self._life += 1
        self._trace("starts", self.name)
        self.node = Node(
            self._storage.engine,
            self._storage.ports(self.clock),
            self._registry,
            self._ways(),
            Watchers(),
            clock=self.clock,
            ids=Ids(self.clock, self._chances.entropy),
            settings=self._settings,
            name=self._own_name,
            is_dead=self._is_surely_dead,
            chance=lambda: self._chances.number(Number.JITTER),
        )
        self._lines = {
            f"{name} {number}": line
            for name, line in self.node.dispatcher.lines.items()
            for number in range(len(line.purposes))
        }
        self._rung = dict.fromkeys(self._lines, 0)
        self._timers = {}
        self._retention = None
        self._in("tend", 0.0)

    def _own_name(self) -> str:
        return f"{self.name}-{self._life}"

    def _is_surely_dead(self, holder: str) -> bool:
        """Processes of one machine know it of each other; those of two machines do not."""
        return self._storage.is_local and holder != self._own_name()

    def die(self) -> None:
        """Let the process die, with everything in its memory."""
        if self.node is None:
            return
        self._trace("dies", self.name)
        self.node = None
        for step in self._busy.values():
            step.abandon()
        self._busy = {}
        self._timeline.after(self._chances.between(Number.LENGTH, 0.1, 5.0), self.start)

    def pause(self, seconds: float) -> None:
        """Let the process stand still without knowing it."""
        self._trace("stands still", self.name, seconds)
        self._held_until = self._timeline.now + seconds

    def heal(self) -> None:
        """Set its clock right, and let it go on."""
        self._held_until = 0.0
        self.clock.skew = 0.0

    def remove(self) -> None:
        """Let it remove what has ended, from now on until it dies."""
        if self.node is None or self._retention is not None:
            return
        ids = Ids(self.clock, self._chances.entropy)
        self._retention = self._storage.retention(self.clock, ids, self._own_name())
        if self._retention is not None:
            self._in("remove", 0.0)

    # Loops

    def wake(self) -> None:
        """Begin the loops that have work and are not under way."""
        node = self.node
        if node is None:
            return
        if "commit" not in self._busy:
            self._in("commit", node.committer.pause or _SOON)
        for name, line in self._lines.items():
            if line.bell.rings != self._rung[name]:
                self._in(name, _SOON)

    def _in(self, loop: str, seconds: float) -> None:
        """Let that loop take its next step by then, if it is not under way."""
        if loop in self._busy:
            return
        at = max(self._timeline.now + seconds, self._held_until)
        if self._timers.get(loop, _NEVER) <= at:
            return
        self._timers[loop] = at
        life = self._life

        async def begin() -> None:
            if self._life != life or self._timers.get(loop) != at or self.node is None:
                return
            del self._timers[loop]
            if self._held_until > at:
                self._in(loop, 0.0)
            else:
                await self._begin(loop)

        self._timeline.at(at, begin)

    async def _begin(self, loop: str) -> None:
        node = self.node
        assert node is not None
        self._busy[loop] = step = Step(
            self._timeline,
            self._work(loop, node),
            lambda pause: self._done(loop, pause),
            lambda error: self._failed(loop, error),
            lambda: self._held_until,
        )
        await step.go_on()

    def _work(self, loop: str, node: Node) -> Coroutine[Any, Any, float]:
        match loop:
            case "tend":
                return node.shards.tend_once()
            case "commit":
                return self._commit(node)
            case "remove":
                return self._remove()
            case _:
                return self._carry(loop)

    async def _commit(self, node: Node) -> float:
        done = await node.committer.run_once()
        self._failures = 0
        if done:
            self._trace("commits", self.name, done)
        return node.committer.pause

    async def _remove(self) -> float:
        assert self._retention is not None
        tally = self._retention.tally
        before = tally.removed.copy()
        pause = await self._retention.step()
        for kind, many in (tally.removed - before).items():
            self._trace("removes", self.name, kind, many)
        return pause

    async def _carry(self, name: str) -> float:
        line = self._lines[name]
        self._rung[name] = line.bell.rings
        settled = await line.courier.run_once()
        return 0.0 if settled else await line.courier.pause()

    def _done(self, loop: str, pause: float) -> None:
        self._busy.pop(loop, None)
        self._in(loop, max(pause, _SOON))
        self.wake()

    def _failed(self, loop: str, error: BaseException) -> None:
        self._busy.pop(loop, None)
        if isinstance(error, Crash):
            self.die()
            return
        if not isinstance(error, Exception):
            raise error
        self._trace("fails", self.name, loop, type(error).__name__)
        if loop == "commit" and self.node is not None:
            self._failures += 1
            self.node.committer.in_trouble(self._failures)
        self._in(loop, _TROUBLE)
        self.wake()


class CrashTrap:
    """The trap that decides at each crash point whether the working process dies there."""

    def __init__(self, chances: Chances, trace: Callable[..., None]) -> None:
        self._chances = chances
        self._trace = trace

    def __call__(self, name: str) -> None:
        # A participant dies by another fault, which is decided where it is simulated too.
        fault = _CRASHES.get(name.partition(":")[0])
        if fault is not None and self._chances.fault(fault):
            self._trace("dies at", name)
            raise Crash(name)
