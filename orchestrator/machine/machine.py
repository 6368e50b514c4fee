"""The saga state machine: `start` and `advance` take values and return values. No other code
decides what a saga does.

Everything that can happen to a run is a `Signal`, which leads to a `Transition`. The caller of
`advance` stores the transition's instance, commands, timers and history in one transaction.

Three rules carry the rest. A command without a definite answer may have run. The run turns at most
once, and never after the point of no return may have happened. A step is undone only when no step
that came after it is in effect.

The modules by topic: `answers`, `later_answers`, `skipping`, `timers` and `operators` take a signal
in, `results` is what the state learns, `turning_back` undoes, and this one goes forward. All of
them are functions over one `TransitionBuilder`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar, assert_never

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput
from orchestrator.machine.answers import buried, replied
from orchestrator.machine.instance import Direction, Instance, Status, StepRun, StepStatus
from orchestrator.machine.operators import asked
from orchestrator.machine.signals import (
    Buried,
    Cancel,
    Pause,
    Replied,
    Resolve,
    Resume,
    Retry,
    Signal,
    Skip,
    Terminate,
    TimerFired,
)
from orchestrator.machine.timers import timer_fired
from orchestrator.machine.transition import Happening, Transition
from orchestrator.machine.transition_builder import TransitionBuilder
from orchestrator.machine.turning_back import go_backward
from outbox.ids import is_id
from outbox.replacing import replace

S = TypeVar("S")

_FINISHED = frozenset({StepStatus.DONE, StepStatus.SKIPPED})


def start(
    saga: Saga[S],
    instance_id: str,
    state: S,
    now: datetime,
    begin_at: datetime | None = None,
    *,
    key: str | None = None,
) -> Transition[S]:
    """A new run and its first commands; none, and a timer, where `begin_at` is still to come. `key`
    is the run's, where the saga has accepted the state already.

    Raises InvalidInput where `state` cannot be its input, or `instance_id` is no UUIDv7.
    """
    if not is_id(instance_id):
        raise InvalidInput(
            f"{instance_id!r:.100} cannot be the id of a run",
            next_step="give it a UUIDv7 in lower case",
        )
    instance = Instance(
        id=instance_id,
        saga=saga.name,
        version=saga.version,
        key=saga.accept(state) if key is None else key,
        state=state,
        steps={step.name: StepRun() for step in saga.steps},
        created_at=now,
    )
    builder = TransitionBuilder(saga, instance, now)
    if begin_at is None or begin_at <= now:
        builder.begin()
    else:
        builder.instance = replace(builder.instance, begin_at=begin_at)
        builder.note(Happening.SCHEDULED, f"{saga}, to begin at {begin_at.isoformat()}")
        builder.remind_to_begin()
    _go_on(builder)
    return builder.transition()


def advance(saga: Saga[S], instance: Instance[S], signal: Signal, now: datetime) -> Transition[S]:
    """The transition that `signal` leads to; `saga` is the definition that the run started with.

    Only an operator's signal can raise: IllegalSignal where it is not possible now, InvalidInput
    where the result supplied does not fit. Any answer of a participant, and any error of the saga's
    own functions, leads to a transition.
    """
    if (saga.name, saga.version) != (instance.saga, instance.version):
        raise ValueError(f"{instance.saga} v{instance.version} cannot go on as {saga}")
    builder = TransitionBuilder(saga, instance, now)
    match signal:
        case Replied():
            replied(builder, signal)
        case Buried():
            buried(builder, signal.command_id, signal.reason)
        case TimerFired():
            timer_fired(builder, signal.kind, signal.command_id)
        case Cancel() | Terminate() | Retry() | Skip() | Resolve() | Pause() | Resume():
            asked(builder, signal)
        case _:
            assert_never(signal)
    _go_on(builder)
    return builder.transition()


def _go_on(builder: TransitionBuilder[S]) -> None:
    """Send every command that can be sent now, and end the run where nothing is left to do."""
    if builder.instance.ended is not None:
        return
    direction = builder.instance.direction
    match direction:
        case Direction.FORWARD:
            if builder.instance.begin_at is None:
                _go_forward(builder)
        case Direction.BACKWARD:
            go_backward(builder)
        case _:
            assert_never(direction)


def _go_forward(builder: TransitionBuilder[S]) -> None:
    """Send the steps whose dependencies are finished; complete the run after the last step."""
    if not builder.instance.paused:
        for step in builder.saga.steps:
            if builder.run(step.name).status is StepStatus.PENDING:
                needs = builder.saga.dependencies[step.name]
                if all(builder.run(need).status in _FINISHED for need in needs):
                    builder.make_action(step.name)
        builder.send_due()
    if all(run.status in _FINISHED for run in builder.instance.steps.values()):
        builder.end(Status.COMPLETED)
