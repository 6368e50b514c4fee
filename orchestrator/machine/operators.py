"""The signals of operators, and their effects on a run."""

from __future__ import annotations

from typing import TypeVar, assert_never

from orchestrator.machine import operator_rules
from orchestrator.machine.instance import Cause, Direction, Status, StepStatus, Wait
from orchestrator.machine.results import take_in
from orchestrator.machine.signals import (
    Cancel,
    OperatorSignal,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
    Terminate,
)
from orchestrator.machine.skipping import skip
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
from orchestrator.machine.turning_back import MAY_BE_IN_EFFECT, turn_back
from outbox.replacing import replace
from outbox.safe_text import fit

S = TypeVar("S")


def asked(builder: TransitionBuilder[S], signal: OperatorSignal) -> None:
    """Take in an operator's signal. Raises IllegalSignal where it is not possible now, InvalidInput
    where the result supplied does not fit."""
    verb = type(signal).__name__.lower()
    step = signal.step if isinstance(signal, Retry | Skip) else None
    operator_rules.check(builder.saga, builder.instance, verb, step)
    builder.note(Happening.OPERATOR, f"{verb}: {signal.reason}", step, actor=signal.actor)
    match signal:
        case Cancel():
            told = f"cancelled by {signal.actor}: {signal.reason}"
            turn_back(builder, told, Cause("cancelled", signal.reason))
        case Terminate():
            _end_by_hand(builder, Status.TERMINATED, Cause("terminated", signal.reason))
        case Resolve():
            _end_by_hand(builder, Status.RESOLVED, Cause("resolved", signal.reason))
        case Retry():
            _retry(builder, signal.step)
        case Skip():
            skip(builder, signal.step, signal.result)
        case Pause():
            builder.instance = replace(builder.instance, paused=True)
        case Resume():
            builder.instance = replace(builder.instance, paused=False)
            if builder.instance.status is Status.SCHEDULED:
                builder.remind_to_begin()
        case _:
            assert_never(signal)


def _retry(builder: TransitionBuilder[S], name: str) -> None:
    is_forward = builder.instance.direction is Direction.FORWARD
    status = StepStatus.SENT if is_forward else StepStatus.UNDOING
    builder.drop_skip(name)
    run = replace(builder.run(name), status=status, tries=0, reason=None)
    builder.put(name, run)
    if run.kept is not None:
        take_in(builder, builder.saga.step(name), run.kept)
    elif run.awaited is None:
        status = StepStatus.PENDING if is_forward else StepStatus.IN_DOUBT
        builder.put(name, replace(run, status=status))
    elif run.awaited.wait is Wait.ANEW:
        builder.make_next(name)
    else:
        builder.put_awaited(name, replace(run.awaited, wait=Wait.SENDING, deadline=None))


def _end_by_hand(builder: TransitionBuilder[S], status: Status, cause: Cause) -> None:
    """End the run without undoing anything, and list what may be in effect."""
    unknown = {StepStatus.SENT, StepStatus.UNDOING}
    for name in builder.instance.steps:
        builder.withdraw_awaited(name)
        builder.drop_skip(name)
        run = replace(builder.run(name), awaited=None, kept=None)
        if run.status is StepStatus.SKIPPED:
            builder.leave_in_place(name)
        elif run.action_ids and run.status in MAY_BE_IN_EFFECT | unknown:
            builder.leave_in_place(name)
            if run.status in unknown:
                run = replace(run, status=StepStatus.IN_DOUBT)
        builder.put(name, run)
    cause = replace(cause, reason=fit(cause.reason))
    builder.instance = replace(builder.instance, cause=cause)
    builder.end(status)
