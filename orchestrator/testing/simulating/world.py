"""One history: some runs, the processes that work on them, and everything that goes wrong.

First the faults, with safety checked at every effect. Then everything heals, and every run has to
end, with every effect or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status
from orchestrator.testing.simulating import samples
from orchestrator.testing.simulating.clients import CLIENT, Clients
from orchestrator.testing.simulating.ledger import Ledger
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import Chances, Fault, Happened, Number
from orchestrator.testing.virtual.completing import Completer, Provider
from orchestrator.testing.virtual.network import LATEST, Post, Receiver, Way
from orchestrator.testing.virtual.process import CrashTrap, Process, ProcessClock
from orchestrator.testing.virtual.service import Handlers, Originator, Service
from orchestrator.testing.virtual.storage import Storage
from orchestrator.testing.virtual.timeline import Timeline
from outbox.crashpoints import arm
from outbox.ids import Ids
from outbox.relay.settings import RelaySettings
from outbox.retry import RetryPolicy
from outbox.transports.base import Transport
from outbox.wire.envelope import Envelope
from outbox.wire.strict_json import loads

_TICK = 2.0
_REPAIRED = 15.0
_PATIENCE = 3600.0
"""Virtual seconds after the healing in which every run must have ended."""
_MOST_STEPS = 6_000
"""Far more than a history has; without a bound, one that goes round in a circle would never end."""
_LEASES = (30.0, 120.0, 120.0, 600.0, 600.0)
"""Seconds, one of which each history has: short ones show more takeovers, long ones cost less."""
_RATES = (0.02, 0.1, 0.3)
_LATE = frozenset({Fault.DUPLICATE, Fault.DELAY, Fault.ACCEPTED, Fault.OUTLASTS})


@dataclass
class History:
    """A history that was run. `trace` is every step, and the same for the same seed."""

    seed: int
    faults: Sequence[Happened] = ()
    ends: Mapping[Status, int] = field(default_factory=dict)
    seconds: float = 0.0
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    broken: Broken | None = None


class World:
    """The history of one seed over these sagas: at most `most_runs` runs, mostly one. Only these
    `kinds` of faults happen; with `only`, no others than those."""

    def __init__(
        self,
        seed: int,
        sagas: Sequence[Saga[Any]],
        storage: Callable[[Timeline, Chances, Registry, bool], Storage],
        *,
        kinds: frozenset[Fault] | None = None,
        only: frozenset[Happened] | None = None,
        most_runs: int = 3,
    ) -> None:
        self.history = History(seed)
        self._sagas = sagas
        self._chances = chances = Chances(seed, only)
        self._timeline = timeline = Timeline()
        self._how_many = 1 + int(chances.number(Number.SHAPE) ** 4 * most_runs)
        names = ("one", "two") if chances.number(Number.SWARM) < 0.3 else ("one",)
        self._settings = _settings(_LEASES[chances.below(Number.SWARM, len(_LEASES))])
        self._rates = {
            fault: _RATES[chances.below(Number.RATE, len(_RATES))]
            for fault in Fault
            if chances.number(Number.SWARM) < 0.35 and (kinds is None or fault in kinds)
        }
        participants = sorted({name for saga in sagas for name in saga.participants})
        registry = Registry(sagas, dict.fromkeys([*participants, CLIENT], ""))
        self._storage = storage(timeline, chances, registry, len(names) == 1)
        self._ledger = Ledger(self._storage, registry, self._trace)
        originator = Originator(loads)
        self._clocks = {name: ProcessClock(timeline) for name in participants}
        self._processes = [
            Process(
                name,
                timeline,
                chances,
                self._storage,
                registry,
                self._ways,
                self._settings,
                self._trace,
            )
            for name in names
        ]
        self._clients = Clients(
            timeline,
            chances,
            self._storage,
            self._ledger,
            self._processes,
            originator,
            Ids(ProcessClock(timeline), chances.entropy),
        )
        handlers = Handlers(chances, Wishes(sagas))
        self._post = Post(timeline, chances, self._clients.signal)
        provider = Provider(chances, handlers, self._ledger.took_effect)
        self._completer = Completer(timeline, chances, handlers, provider, self._post)
        self._receivers: dict[str, Receiver] = {
            name: self._storage.service(
                name, chances, handlers, clock, self._ledger.took_effect, self._begun
            )
            for name, clock in self._clocks.items()
        }
        self._receivers[CLIENT] = originator
        self._steps = 0

    def _ways(self) -> Mapping[str, Transport]:
        timeout = self._settings.relay.delivery_timeout
        return {
            name: Way(self._timeline, self._chances, name, it, timeout, self._post)
            for name, it in self._receivers.items()
        }

    def _begun(self, service: Service, envelope: Envelope, attempt: int) -> None:
        if attempt and not envelope.undoes:
            saga_id, _, step = envelope.key.partition("/")
            self._ledger.called(saga_id, step)
        self._completer.begun(service, envelope, attempt)

    def _trace(self, *what: Any) -> None:
        self.history.trace.append((round(self._timeline.now, 6), *what))

    async def run(self) -> History:
        """Run the history, which also has the broken promise, if any."""
        history = self.history
        armed = arm(CrashTrap(self._chances, self._trace))
        try:
            await self._happen()
        except Broken as broken:
            history.broken = broken
        finally:
            arm(armed)
            history.faults = tuple(self._chances.happened)
            history.seconds = self._timeline.now
        return history

    async def _happen(self) -> None:
        chances, timeline = self._chances, self._timeline
        trouble = 2.0 + 30.0 * chances.number(Number.LENGTH) ** 2
        for process in self._processes:
            timeline.at(0.0, process.start)
        self._clients.want(self._sagas, self._how_many, within=trouble / 3)
        chances.rates = self._rates
        timeline.after(_TICK, self._tick)
        while await timeline.next(trouble):
            self._check_so_far()
        chances.rates = {}
        await self._heal()
        end = timeline.now + _PATIENCE
        may_come_late = any(fault in _LATE for fault, _ in chances.happened)
        quiet = timeline.now + (LATEST if may_come_late else 0.0)
        while not (timeline.now >= quiet and await self._is_quiet()):
            if not await timeline.next(end):
                raise Broken("end", await self._what_is_left())
            self._check_so_far()
        await self._check_end()

    async def _tick(self) -> None:
        """Make the troubles that come by themselves, and the operators' signals."""
        chances = self._chances
        if not chances.rates:
            return
        for process in self._processes:
            if chances.fault(Fault.NODE_PAUSE):
                process.pause(chances.between(Number.LENGTH, 1.0, 1.7 * self._settings.relay.lease))
        for clock in (*(it.clock for it in self._processes), *self._clocks.values()):
            if chances.fault(Fault.SKEW):
                clock.skew = chances.between(Number.LENGTH, -900.0, 900.0)
        for receiver in self._receivers.values():
            if chances.fault(Fault.PARTITION):
                seconds = chances.between(Number.LENGTH, 1.0, 30.0)
                receiver.away_until = self._timeline.now + seconds
        if chances.fault(Fault.DATABASE_AWAY):
            self._storage.is_away = True
            self._timeline.after(chances.between(Number.LENGTH, 0.3, 10.0), self._database_back)
        await self._clients.meddle()
        self._timeline.after(_TICK, self._tick)

    async def _database_back(self) -> None:
        self._storage.is_away = False

    async def _heal(self) -> None:
        self._trace("heals")
        self._storage.is_away = False
        for process in self._processes:
            process.heal()
        for clock in self._clocks.values():
            clock.skew = 0.0
        for receiver in self._receivers.values():
            receiver.away_until = 0.0
        await self._repair()

    async def _repair(self) -> None:
        await self._clients.repair()
        self._timeline.after(_REPAIRED, self._repair)

    # Promises

    def _check_so_far(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise Broken("end", f"after {_MOST_STEPS:,} steps there is still none")
        if self._ledger.broken is not None:
            raise self._ledger.broken

    async def _is_quiet(self) -> bool:
        is_open = self._clients.unanswered or self._completer.open or self._post.open
        return not is_open and await self._storage.is_quiet()

    async def _what_is_left(self) -> str:
        left = [
            f"{run.saga} is {run.status}" + (f", parked: {parked}" if parked else "")
            for run, parked in await self._storage.runs()
            if run.ended is None
        ]
        left += [f"{it.saga.name} was never taken in" for it in self._clients.unanswered]
        told = ", ".join(left) or "messages or signals lie in the tables"
        return f"an hour after everything healed, {told}"

    async def _check_end(self) -> None:
        runs = {run.id: run for run, _ in await self._storage.runs()}
        for run in runs.values():
            self._ledger.check_end(run)
            self._trace("ends", run.id, run.status)
        self.history.ends = Counter(run.status for run in runs.values())
        await self._clients.check(runs)
        await self._storage.check()


def _settings(lease: float) -> EngineSettings:
    return EngineSettings(
        relay=RelaySettings(
            lease=lease,
            margin=5.0,
            delivery_timeout=2.0,
            poll=lease / 4,
            sweep=lease / 3,
            width=1,
            park_after=5.0,
            retry=RetryPolicy(first=0.3, ceiling=10.0, attempts=6),
        )
    )


class Wishes:
    """The answers of all participants' handlers."""

    def __init__(self, sagas: Sequence[Saga[Any]]) -> None:
        self._may_refuse: set[str] = set()
        self._values: dict[str, Any] = {}
        for saga in sagas:
            self._values.update(samples.answers(saga))
            for step in saga.steps:
                if step.kind is not Kind.RETRIABLE:
                    self._may_refuse.add(str(saga.action_type(step.name)))

    def may_be_refused(self, envelope: Envelope) -> bool:
        return envelope.type in self._may_refuse and not envelope.undoes

    def value(self, envelope: Envelope) -> Any:
        return self._values.get(envelope.type)
