"""One history: some runs, the processes that work on them, and everything that goes wrong.

First the faults, with safety checked at every effect. Then everything heals, and every run has to
end, with every effect or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status
from orchestrator.testing.brokers.broker import VirtualBroker
from orchestrator.testing.brokers.consumer import VirtualConsumer
from orchestrator.testing.brokers.way import BrokerWay
from orchestrator.testing.brokers.witness import Witness
from orchestrator.testing.simulating import samples
from orchestrator.testing.simulating.clients import CLIENT, Clients
from orchestrator.testing.simulating.ledger import Ledger
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import (
    OF_BROKERS,
    OF_REMOVAL,
    Chances,
    Fault,
    Happened,
    Number,
)
from orchestrator.testing.virtual.completing import Completer, Provider
from orchestrator.testing.virtual.network import LATEST, Post, Receiver, Way
from orchestrator.testing.virtual.process import BEGIN, CrashTrap, Process, ProcessClock
from orchestrator.testing.virtual.service import Handlers, Originator, Service
from orchestrator.testing.virtual.storage import Storage
from orchestrator.testing.virtual.timeline import Timeline
from outbox.crashpoints import arm
from outbox.ids import Ids, first_at
from outbox.relay.settings import RelaySettings
from outbox.retry import RetryPolicy
from outbox.transports.base import Transport
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from outbox.wire.strict_json import loads

_TICK = 2.0
_REPAIRED = 15.0
_PATIENCE = 3600.0
"""Virtual seconds after the healing in which every run must have ended."""
_MOST_STEPS = 20_000
"""Far more than a history has; without a bound, one that goes round in a circle would never end."""
_LEASES = (30.0, 120.0, 120.0, 600.0, 600.0)
"""Seconds, one of which each history has: short ones show more takeovers, long ones cost less."""
_RATES = (0.02, 0.1, 0.3)
_OFTEN = 0.4
_RATES_OF_FEW = (0.05, 0.2, 0.5)
"""Higher ones, since few histories have brokers, or runs that are removed."""
_QUICK, _SLOW = (0.0005, 0.01), (0.02, 0.9)
"""Seconds that a request takes, and an answer. Where they are slow, several are in the air."""
_LATE = frozenset({Fault.DUPLICATE, Fault.DELAY, Fault.ACCEPTED, Fault.OUTLASTS})
_SHARE_OF_BROKERS = 0.05
"""Of so many histories some destinations are behind a broker; of all, where only named faults
happen and one of them is a broker's."""
_BEHIND_IT = 0.7
"""How likely each destination is then."""
_SHARE_OF_REMOVAL = 0.12
"""In so many histories runs are removed, which makes a history twice as long; in more, where only
named faults happen."""
_UNSETTLED = 2.0
"""Seconds for which a run is young, and nothing is said of it."""
_KEYS = Keyring({"simulated": b"k" * 32}, "simulated")


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
        self._latency = _SLOW if chances.number(Number.PACE) < 0.25 else _QUICK
        names = ("one", "two") if chances.number(Number.SWARM) < 0.3 else ("one",)
        self._settings = _settings(_LEASES[chances.below(Number.SWARM, len(_LEASES))])
        self._rates = {
            fault: _rates(fault)[chances.below(Number.RATE, len(_RATES))]
            for fault in Fault
            if chances.number(Number.SWARM) < _likely(fault, named=kinds is not None)
            and (kinds is None or fault in kinds)
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
            _old_ids(chances),
        )
        calls = {str(it.message_type) for each in sagas for it in each.rest_calls.values()}
        handlers = Handlers(chances, Wishes(sagas), calls)
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
        has_brokers = chances.number(Number.BROKER) < (
            1 if kinds is not None and kinds & OF_BROKERS else _SHARE_OF_BROKERS
        )
        self._consumers = {
            name: self._consumer(name, it)
            for name, it in self._receivers.items()
            if has_brokers and chances.number(Number.BROKER) < _BEHIND_IT
        }
        self._let_happen_often(kinds)
        self._steps = 0

    def _let_happen_often(self, kinds: frozenset[Fault] | None) -> None:
        """Raise the rates of what hardly happens, in the histories that are about it."""
        more = set[Fault]()
        if self._consumers and Fault.SKIP in self._rates:
            # Else hardly a step is stuck while its command may still be on its way.
            more |= {Fault.POISON, Fault.REFUSED_LATE}
        if Fault.REMOVED in self._rates:
            # Else hardly a start comes after the removal of its run.
            more |= OF_REMOVAL - {Fault.REMOVED}
        self._rates |= {it: _OFTEN for it in more if kinds is None or it in kinds}

    def _consumer(self, name: str, receiver: Receiver) -> VirtualConsumer:
        witness = Witness(self._ledger.breaks)
        timeout = self._settings.relay.delivery_timeout
        return VirtualConsumer(
            self._timeline,
            self._chances,
            name,
            receiver,
            VirtualBroker(self._timeline, self._chances, witness, timeout, self._latency),
            _KEYS,
            self._post,
            witness,
            self._latency,
            self._trace,
            self._settled,
        )

    def _ways(self) -> Mapping[str, Transport]:
        return {name: self._way(name) for name in self._receivers}

    def _way(self, name: str) -> Transport:
        overlaps = self._ledger.overlaps
        if name in self._consumers:
            broker = self._consumers[name].broker
            return BrokerWay(self._timeline, name, broker, _KEYS, overlaps, self._settled)
        return Way(
            self._timeline,
            self._chances,
            name,
            self._receivers[name],
            self._settings.relay.delivery_timeout,
            self._post,
            self._latency,
            overlaps,
        )

    def _settled(self) -> EndedSagas | None:
        """What processes say of ended runs. They say nothing while a clock is wrong, nor of runs
        that may be on their way: the number of a run is up to a minute older than its begin."""
        if Fault.SKEW in self._rates:
            return None
        before = first_at(BEGIN + timedelta(seconds=self._timeline.now - _UNSETTLED))
        return self._storage.ended(before, self._clients.ids)

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
            for consumer in self._consumers.values():
                consumer.close()
            history.faults = tuple(self._chances.happened)
            history.seconds = self._timeline.now
        return history

    async def _happen(self) -> None:
        chances, timeline = self._chances, self._timeline
        trouble = 2.0 + 30.0 * chances.number(Number.LENGTH) ** 2
        for process in self._processes:
            timeline.at(0.0, process.start)
        for consumer in self._consumers.values():
            timeline.at(0.0, consumer.start)
        self._clients.want(self._sagas, self._how_many, within=trouble / 3)
        chances.rates = self._rates
        timeline.after(_TICK, self._tick)
        while await timeline.next(trouble):
            self._check_so_far()
        # Persons go on to decide as they like.
        kept = {Fault.SKIP} if self._consumers else ()
        chances.rates = {it: rate for it, rate in self._rates.items() if it in kept}
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
        if chances.rates.keys() <= {Fault.SKIP}:
            return
        for process in self._processes:
            if chances.fault(Fault.NODE_PAUSE):
                process.pause(chances.between(Number.LENGTH, 1.0, 1.7 * self._settings.relay.lease))
            if chances.fault(Fault.REMOVED):
                process.remove()
        for clock in (*(it.clock for it in self._processes), *self._clocks.values()):
            if chances.fault(Fault.SKEW):
                clock.skew = chances.between(Number.LENGTH, -900.0, 900.0)
        for receiver in self._receivers.values():
            if chances.fault(Fault.PARTITION):
                seconds = chances.between(Number.LENGTH, 1.0, 30.0)
                receiver.away_until = self._timeline.now + seconds
        for consumer in self._consumers.values():
            consumer.meddle()
        if chances.fault(Fault.DATABASE_AWAY):
            self._storage.is_away = True
            self._timeline.after(chances.between(Number.LENGTH, 0.3, 10.0), self._database_back)
        await self._clients.meddle()
        if self._consumers:
            await self._clients.skip()
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
        for consumer in self._consumers.values():
            consumer.heal()
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
        is_open = self._clients.unanswered or self._clients.copies
        is_open = is_open or self._completer.open or self._post.open
        is_open = is_open or any(it.left for it in self._consumers.values())
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


def _old_ids(chances: Chances) -> Callable[[], str]:
    """Maker of ids that are days old."""
    clock = ProcessClock(Timeline())
    clock.skew = -2 * 86_400.0
    return Ids(clock, chances.entropy)


def _likely(fault: Fault, *, named: bool) -> float:
    """How likely a history is to have that fault at all, where that is one of few that were
    named, or where all may happen."""
    if fault is Fault.REMOVED and not named:
        return _SHARE_OF_REMOVAL
    return 0.6 if fault in OF_BROKERS else 0.35


def _rates(fault: Fault) -> Sequence[float]:
    return _RATES_OF_FEW if fault in OF_BROKERS | OF_REMOVAL else _RATES


def _settings(lease: float) -> EngineSettings:
    return EngineSettings(
        relay=RelaySettings(
            lease=lease,
            margin=5.0,
            delivery_timeout=2.0,
            poll=lease / 4,
            sweep=lease / 3,
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
