"""Turning back and undoing: whether a run may turn, the turn itself, and the compensations in
reverse order."""

from __future__ import annotations

from typing import TypeVar

from orchestrator.definition.steps import Kind
from orchestrator.machine import operator_rules
from orchestrator.machine.instance import Cause, Direction, Status, StepStatus
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
from outbox.replacing import replace
from outbox.safe_text import fit

S = TypeVar("S")

MAX_UNDOS = 20
"""How often a step is compensated once more after a late success of its action."""

_TO_BE_UNDONE = frozenset({StepStatus.DONE, StepStatus.IN_DOUBT})
MAY_BE_IN_EFFECT = _TO_BE_UNDONE | {StepStatus.UNDOING, StepStatus.STUCK}
"""The statuses of a step whose action, once sent, may have an effect."""


def may_be_undone(builder: TransitionBuilder[S], name: str) -> bool:
    """Whether the step has a compensation."""
    return builder.saga.step(name).kind is Kind.COMPENSATABLE


def may_turn_back(builder: TransitionBuilder[S], name: str) -> bool:
    """Whether the run may turn back because of the command that the step awaits."""
    return may_be_undone(builder, name) and not builder.is_undo(name)


def in_doubt_for_good(builder: TransitionBuilder[S], name: str, cause: Cause) -> None:
    """Turn back, or let an operator decide, where waiting cannot tell whether the step's command
    ran."""
    if may_turn_back(builder, name):
        builder.put(name, replace(builder.run(name), reason=fit(cause.reason)))
        turn_back(builder, f"step {name!r} is in doubt: {cause.reason}", cause)
    else:
        builder.stick(name, cause.reason)


def undone(builder: TransitionBuilder[S], name: str) -> None:
    """Take in that the step's compensation has done its work. Where an action reported success
    meanwhile, that may have been before it or after it."""
    action_ran = builder.awaited(name).action_ran
    builder.settle(name, StepStatus.UNDONE)
    if action_ran:
        undo_once_more(builder, name)


def undo_once_more(builder: TransitionBuilder[S], name: str) -> None:
    """Undo the step again, since its action may have run after its compensation."""
    run = builder.run(name)
    if len(run.undo_ids) < MAX_UNDOS:
        builder.put(name, replace(run, status=StepStatus.IN_DOUBT))
    else:
        undos = len(run.undo_ids)
        builder.stick(name, f"its action still reports success after {undos} compensations")


def turn_back(builder: TransitionBuilder[S], told: str, cause: Cause) -> None:
    """Undo the run from here on. Every step that was ever sent and has no definite "no" counts as
    one that may have run."""
    assert not operator_rules.passed(builder.saga, builder.instance)
    cause = replace(cause, reason=fit(cause.reason))
    builder.instance = replace(builder.instance, direction=Direction.BACKWARD, cause=cause)
    builder.note(Happening.TURNED_BACK, told)
    for name, run in builder.instance.steps.items():
        if run.status in {StepStatus.PENDING, StepStatus.REFUSED, StepStatus.DONE}:
            continue
        builder.withdraw_awaited(name)
        if run.action_ids:
            # A stray effect of it is undone with the rest.
            builder.drop_stray_effects(name)
            builder.settle(name, StepStatus.IN_DOUBT, run.reason)
        elif run.status is StepStatus.SKIPPED:
            # An operator did the step by hand, and no command of the saga can undo that.
            builder.leave_in_place(name)
        else:
            builder.settle(name, StepStatus.PENDING, run.reason)


def go_backward(builder: TransitionBuilder[S]) -> None:
    """Undo the steps whose followers have no effect; end the run after the last one."""
    if not builder.instance.paused:
        for step in reversed(builder.saga.steps):
            followers = builder.saga.followers[step.name]
            is_ready = builder.run(step.name).status in _TO_BE_UNDONE
            if is_ready and not any(
                builder.run(other).status in MAY_BE_IN_EFFECT for other in followers
            ):
                builder.make_undo(step.name)
        builder.send_due()
    if not any(run.status in MAY_BE_IN_EFFECT for run in builder.instance.steps.values()):
        builder.end(Status.RESOLVED if builder.instance.not_undone else Status.COMPENSATED)
