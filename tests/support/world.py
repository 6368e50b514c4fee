"""One run with everything around it, as a value, and all that can happen to it next.

The machine and the rules of the participant are asked once for each different question; worlds
are made of numbers that stand for what was seen before, since there are many of them.

A command that was withdrawn stays on its way here: it may have left before, and that it may never
arrive is among the worlds anyway.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from orchestrator.commands import outstanding
from orchestrator.definition import Saga
from orchestrator.instance import Instance, Status, StepStatus
from orchestrator.permits import allowed_signals
from orchestrator.signals import (
    Buried,
    Cancel,
    Pause,
    Replied,
    Resume,
    Retry,
    Signal,
    Skip,
    TimerFired,
    TimerKind,
)
from orchestrator.steps import Kind
from orchestrator.transition import Dispatch, Transition
from outbox.replies import Outcome, Reply
from tests.support import promises
from tests.support.faults import Faults
from tests.support.participant import Participant

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUN_ID = "0190a000-0000-7000-8000-000000000001"

V = TypeVar("V", bound=Hashable)


class World(NamedTuple):
    """One state of everything. `network` is what is on its way, in no order."""

    engine: int
    participant: int
    network: tuple[int, ...]
    faults: int


class Edge(NamedTuple):
    """One thing that can happen. `is_fault` where it need not."""

    label: str
    world: World
    is_fault: bool


class Message(NamedTuple):
    """A command on its way, or the answer to it."""

    command_id: str
    answer: Outcome | None


class Engine(NamedTuple):
    """What the orchestrator has stored of the run, as far as it decides anything."""

    essence: Hashable
    timers: frozenset[tuple[TimerKind, str]]


class Numbers(Generic[V]):
    """A number for each different value."""

    def __init__(self) -> None:
        self._numbers: dict[V, int] = {}
        self.values: list[V] = []

    def of(self, value: V) -> int:
        """Its number; a new one, where it is new."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Model:
    """Makes worlds. Raises `promises.Broken` where one breaks a promise."""

    def __init__(self, saga: Saga[Any], machine: ModuleType) -> None:
        self._saga = saga
        self._machine = machine
        self._engines: Numbers[Engine] = Numbers()
        self._participants: Numbers[Participant] = Numbers()
        self._messages: Numbers[Message] = Numbers()
        self._faults: Numbers[Faults] = Numbers()
        self._instances: dict[int, Instance[Any]] = {}
        self._commands: dict[str, Dispatch] = {}
        self._steps: dict[tuple[int, Signal], tuple[int, tuple[int, ...]]] = {}
        self._receipts: dict[tuple[int, int], list[tuple[int, int, str | None]]] = {}
        self._fewer: dict[tuple[int, str], int | None] = {}
        self._idle: dict[tuple[int, int], bool] = {}
        self._checked: set[tuple[int, int]] = set()

    def first(self, state: Any, participant: Participant, faults: Faults) -> World:
        """The world in which the run has just begun."""
        engine, sent = self._store(self._machine.start(self._saga, RUN_ID, state, NOW), frozenset())
        return World(engine, self._participants.of(participant), sent, self._faults.of(faults))

    def status(self, world: World) -> Status:
        """How the run stands in it."""
        return self._instances[world.engine].status

    def edges(self, world: World) -> Iterator[Edge]:
        """All that can happen in it next."""
        if world[:2] not in self._checked:
            self._checked.add(world[:2])
            participant = self._participants.values[world.participant]
            promises.check_effects(self._saga, self._instances[world.engine], participant)
        for message in dict.fromkeys(world.network):
            yield from self._deliveries(world, message)
        yield from self._timers(world)
        yield from self._operators(world)
        yield from self._crashes(world)

    # Messages

    def _deliveries(self, world: World, number: int) -> Iterator[Edge]:
        name = self._name(number)
        rest = list(world.network)
        rest.remove(number)
        gone = world._replace(network=tuple(rest))
        for label, fault, arrived in self._arrivals(gone, number):
            faults = world.faults if fault is None else self._without(world.faults, fault)
            if faults is None:
                continue
            after = arrived._replace(faults=faults)
            yield Edge(f"{label} arrives", self._tidied(after), fault is not None)
            fewer = self._without(faults, "duplicates")
            if fewer is not None:
                copied = after._replace(network=(*after.network, number), faults=fewer)
                yield Edge(f"{label} arrives, a copy is on its way", self._tidied(copied), True)
        fewer = self._without(world.faults, "losses")
        if fewer is not None:
            yield Edge(f"{name} is lost", self._tidied(gone._replace(faults=fewer)), True)
        message = self._messages.values[number]
        fewer = self._without(world.faults, "burials") if message.answer is None else None
        if fewer is not None:
            buried = self._signalled(gone._replace(faults=fewer), Buried(message.command_id, "-"))
            yield Edge(f"{name} is buried", self._tidied(buried), True)

    def _arrivals(self, gone: World, number: int) -> Iterator[tuple[str, str | None, World]]:
        """What arrives, which fault it takes, and the world after it."""
        message, name = self._messages.values[number], self._name(number)
        if message.answer is not None:
            signal = Replied(message.command_id, Reply(message.answer))
            yield name, None, self._signalled(gone, signal)
            return
        command = self._commands[message.command_id]
        for participant, answer, fault in self._received(gone.participant, number):
            if command.undoes:
                self._check_order(gone, participant, command.step)
            after = gone._replace(participant=participant, network=(*gone.network, answer))
            yield f"{name} (it will answer {self._name(answer)})", fault, after

    def _check_order(self, gone: World, participant: int, step: str) -> None:
        before, after = (self._participants.values[it] for it in (gone.participant, participant))
        if before.effect(step) != after.effect(step):
            promises.check_order(self._saga, self._instances[gone.engine], after, step)

    def _received(self, participant: int, number: int) -> list[tuple[int, int, str | None]]:
        """Participant and answer after a command, for all that its handler may say."""
        key = (participant, number)
        if key not in self._receipts:
            before = self._participants.values[participant]
            command = self._commands[self._messages.values[number].command_id]
            self._receipts[key] = []
            for wish, fault in self._wishes(before, command):
                after, outcome = before.receive(command, wish)
                answer = self._messages.of(Message(command.id, outcome))
                self._receipts[key].append((self._participants.of(after), answer, fault))
        return self._receipts[key]

    def _wishes(
        self, participant: Participant, command: Dispatch
    ) -> Iterator[tuple[Outcome, str | None]]:
        yield Outcome.DONE, None
        if participant.decides(command):
            kind = self._saga.step(command.step).kind
            must_succeed = bool(command.undoes) or kind is Kind.RETRIABLE
            yield Outcome.REFUSED, "refusals" if must_succeed else None
            yield Outcome.LOCKED, "locks"

    def _name(self, number: int) -> str:
        message = self._messages.values[number]
        command = self._commands[message.command_id]
        name = f"{'undo' if command.undoes else 'do'} {command.step!r}"
        return name if message.answer is None else f"{message.answer} to {name}"

    # What else happens

    def _timers(self, world: World) -> Iterator[Edge]:
        on_the_way = {self._messages.values[number].command_id for number in world.network}
        for kind, id in sorted(self._engines.values[world.engine].timers):
            is_late = kind is TimerKind.DEADLINE and id in on_the_way
            faults = self._without(world.faults, "late") if is_late else world.faults
            if faults is not None:
                after = self._signalled(world._replace(faults=faults), TimerFired(kind, id))
                label = f"the {kind} of {self._name(self._messages.of(Message(id, None)))} comes"
                yield Edge(label, self._tidied(after), is_late)

    def _operators(self, world: World) -> Iterator[Edge]:
        instance = self._instances[world.engine]
        allowed = allowed_signals(self._saga, instance)
        stuck = [it for it, run in instance.steps.items() if run.status is StepStatus.STUCK]
        possible: list[tuple[str, str, Signal]] = [
            ("cancels", "cancel", Cancel("-", "-")),
            ("pauses", "pause", Pause("-", "-")),
            *(("retries", "retry", Retry(step, "-", "-")) for step in stuck),
            *(("skips", "skip", Skip(step, "-", "-")) for step in stuck),
        ]
        for fault, verb, signal in possible:
            fewer = self._without(world.faults, fault)
            if fewer is not None and verb in allowed:
                after = self._signalled(world._replace(faults=fewer), signal)
                yield Edge(verb, self._tidied(after), True)
        if instance.paused:
            yield Edge("resume", self._tidied(self._signalled(world, Resume("-", "-"))), False)

    def _crashes(self, world: World) -> Iterator[Edge]:
        fewer = self._without(world.faults, "crashes")
        again = outstanding(self._saga, self._instances[world.engine])
        if fewer is not None and again:
            sent = [self._messages.of(Message(command.id, None)) for command in again]
            after = world._replace(network=(*world.network, *sent), faults=fewer)
            yield Edge("crash, and all that is awaited is sent again", self._tidied(after), True)

    def _without(self, faults: int, name: str) -> int | None:
        key = (faults, name)
        if key not in self._fewer:
            fewer = self._faults.values[faults].without(name)
            self._fewer[key] = None if fewer is None else self._faults.of(fewer)
        return self._fewer[key]

    # The orchestrator

    def _signalled(self, world: World, signal: Signal) -> World:
        engine, sent = self._advanced(world.engine, signal)
        # One that is still in the outbox is not added to it again.
        added = tuple(number for number in sent if number not in world.network)
        return world._replace(engine=engine, network=world.network + added)

    def _advanced(self, engine: int, signal: Signal) -> tuple[int, tuple[int, ...]]:
        key = (engine, signal)
        if key not in self._steps:
            instance, timers = self._instances[engine], self._engines.values[engine].timers
            if isinstance(signal, TimerFired):
                timers -= {(signal.kind, signal.command_id)}
            transition = self._machine.advance(self._saga, instance, signal, NOW)
            promises.check_transition(instance, transition)
            self._steps[key] = self._store(transition, timers)
        return self._steps[key]

    def _store(
        self, transition: Transition[Any], timers: frozenset[tuple[TimerKind, str]]
    ) -> tuple[int, tuple[int, ...]]:
        instance = transition.instance
        self._commands |= {command.id: command for command in transition.commands}
        awaited = {it.awaited.id for it in instance.steps.values() if it.awaited is not None}
        timers |= {(timer.kind, timer.command_id) for timer in transition.timers}
        timers = frozenset((kind, id) for kind, id in timers if id in awaited)
        engine = self._engines.of(Engine(essence(instance), timers))
        self._instances.setdefault(engine, instance)
        sent = (Message(command.id, None) for command in transition.commands)
        return engine, tuple(self._messages.of(message) for message in sent)

    def _tidied(self, world: World) -> World:
        """The same world, without the order of the network, and without answers that neither now
        nor ever change anything. After the end nothing does; before it, an answer to a command
        that is not awaited, except a success, which may yet turn out to be late."""
        kept = [it for it in world.network if not self._is_idle(world.engine, it)]
        return world._replace(network=tuple(sorted(kept)))

    def _is_idle(self, engine: int, number: int) -> bool:
        key = (engine, number)
        if key not in self._idle:
            message, instance = self._messages.values[number], self._instances[engine]
            is_dead = message.answer is not None and (
                instance.ended is not None
                or (
                    message.answer is not Outcome.DONE
                    and instance.step_awaiting(message.command_id) is None
                )
            )
            if is_dead and message.answer is not None:
                signal = Replied(message.command_id, Reply(message.answer))
                is_dead = self._advanced(engine, signal) == (engine, ())
            self._idle[key] = is_dead
        return self._idle[key]


def essence(instance: Instance[Any]) -> Hashable:
    """All of a run that decides anything: equal ones behave alike."""
    return (
        instance.direction,
        instance.ended,
        instance.paused,
        instance.not_undone,
        tuple(
            (
                run.status,
                run.action_ids,
                run.undo_ids,
                run.awaited and (run.awaited.id, run.awaited.wait, run.awaited.deadline is None),
                run.tries,
            )
            for run in instance.steps.values()
        ),
    )
