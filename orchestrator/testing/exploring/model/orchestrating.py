"""The orchestrator within an explored world: the real machine, asked once for each question."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from orchestrator.machine.commands import dispatch_of
from orchestrator.machine.instance import Instance, StepStatus, Wait
from orchestrator.machine.signals import Replied, Signal, TimerFired, TimerKind
from orchestrator.machine.transition import Dispatch, Transition
from orchestrator.testing.exploring.model import promises
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.values import Engine, Message, Numbers, Sent, essence
from outbox.replies import Outcome
from outbox.safe_text import described
from outbox.wire.json_types import shape_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
"""When everything happens: the machine compares no times, it is told when one has come."""
RUN_ID = "0190a000-0000-7000-8000-000000000001"

Advanced = tuple[int, tuple[int, ...]]
"""The orchestrator afterwards, and the commands that it sent, by their numbers."""


class Orchestrating:
    """Each state of the orchestrator has a number, and what it leads to is remembered."""

    def __init__(self, saga: Saga[Any], machine: ModuleType, messages: Numbers[Message]) -> None:
        self._saga = saga
        self._machine = machine
        self._messages = messages
        self._shape = shape_of(saga.state)
        self._engines: Numbers[Engine] = Numbers()
        self._advanced: dict[tuple[int, Hashable], Advanced | Broken] = {}
        self._outstanding: dict[int, tuple[int, ...]] = {}
        self.instances: dict[int, Instance[Any]] = {}
        self.sent: dict[str, Sent] = {}

    def start(self, state: Any, *, later: bool) -> Advanced:
        """A run that has just begun, or is to begin later. Raises InvalidInput where that cannot be
        its input, Broken where a function of the saga fails at once."""
        begin_at = NOW + timedelta(days=1) if later else None
        transition = self._machine.start(self._saga, RUN_ID, state, NOW, begin_at)
        promises.check_functions(transition.instance)
        return self._store(transition, frozenset(), frozenset())

    def timers(self, engine: int) -> list[tuple[TimerKind, str]]:
        """The timers that are set."""
        return sorted(self._engines.values[engine].timers)

    def outstanding(self, engine: int) -> tuple[int, ...]:
        """The commands that are sent again at recovery."""
        if engine not in self._outstanding:
            again = _outstanding(self._saga, self.instances[engine])
            numbers = (self._messages.of(Message(command.id, None)) for command in again)
            self._outstanding[engine] = tuple(numbers)
        return self._outstanding[engine]

    def advance(self, engine: int, name: Hashable, signal: Signal) -> Advanced:
        """What the signal leads to; `name` stands for it, since it may hold what has no hash.
        Raises Broken where that breaks a promise."""
        key = (engine, name)
        if key not in self._advanced:
            try:
                self._advanced[key] = self._asked(engine, signal)
            except Broken as broken:
                self._advanced[key] = broken
        found = self._advanced[key]
        if isinstance(found, Broken):
            raise found
        return found

    def _asked(self, engine: int, signal: Signal) -> Advanced:
        instance, (_, timers, known) = self.instances[engine], self._engines.values[engine]
        if isinstance(signal, TimerFired):
            timers -= {(signal.kind, signal.command_id)}
        try:
            transition = self._machine.advance(self._saga, instance, signal, NOW)
        except InvalidInput:
            raise  # a result of the user's own that does not fit
        except Exception as error:
            raise Broken("total", f"the machine raised {described(error)}") from error
        promises.check_transition(instance, transition)
        promises.check_strays(instance, transition.instance, known)
        return self._store(transition, timers, known | _told(instance, signal))

    def _store(
        self,
        transition: Transition[Any],
        timers: frozenset[tuple[TimerKind, str]],
        known: frozenset[str],
    ) -> Advanced:
        instance = transition.instance
        for command in transition.commands:
            run = instance.steps[command.step]
            ids = run.undo_ids if command.undoes else run.action_ids
            ids = run.void_ids if command.is_void else ids
            self.sent[command.id] = Sent(command, ids.index(command.id) + 1)
        awaited = {it.id for run in instance.steps.values() for it in run.commands}
        if instance.begin_at is not None and instance.ended is None:
            awaited.add(instance.id)
        timers |= {(timer.kind, timer.command_id) for timer in transition.timers}
        # A timer that guards what is not awaited any more does nothing, for ever: no id is
        # awaited a second time.
        timers = frozenset((kind, id) for kind, id in timers if id in awaited)
        value = Engine(essence(instance, self._shape.write(instance.state)), timers, known)
        engine = self._engines.of(value)
        self.instances.setdefault(engine, instance)
        sent = (Message(command.id, None) for command in transition.commands)
        return engine, tuple(self._messages.of(message) for message in sent)


def _told(instance: Instance[Any], signal: Signal) -> frozenset[str]:
    """The id of the action that the signal tells the success of, if its step is not being undone
    yet, and the run goes on."""
    if not isinstance(signal, Replied) or signal.reply.outcome is not Outcome.DONE:
        return frozenset()
    return frozenset(
        signal.command_id
        for run in instance.steps.values()
        if signal.command_id in run.action_ids and not run.undo_ids and instance.ended is None
    )


def _outstanding(saga: Saga[Any], instance: Instance[Any]) -> tuple[Dispatch, ...]:
    """The commands that were sent and whose answers are due: their rows are still in the outbox,
    so they are sent again by one who cannot know whether they left."""
    return tuple(
        dispatch_of(saga, saga.step(name), command)
        for name, run in instance.steps.items()
        for command in run.commands
        if command.wait is Wait.ANSWER
        # Of a stuck step only the void of its skip is on its way.
        and (run.status is not StepStatus.STUCK or command is not run.awaited)
    )
