"""Timers of a run: each sends a command once more, takes its answer for overdue, or lets the run
begin."""

from __future__ import annotations

from typing import TypeVar, assert_never

from orchestrator.machine.instance import Cause, Status, StepStatus, Wait
from orchestrator.machine.signals import TimerKind
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
from orchestrator.machine.turning_back import in_doubt_for_good, may_turn_back
from outbox.replacing import replace

S = TypeVar("S")


def timer_fired(builder: TransitionBuilder[S], kind: TimerKind, command_id: str) -> None:
    """Take in a timer that came due. That of a command does nothing unless a step that is not stuck
    still awaits it."""
    if kind is TimerKind.BEGIN:
        _begin(builder)
        return
    skipped = builder.instance.step_skipped_by(command_id)
    if skipped is not None:
        skip = builder.run(skipped).skip
        assert skip is not None
        builder.put_void(skipped, replace(skip.void, wait=Wait.SENDING))
        return
    name = builder.instance.step_awaiting(command_id)
    if name is None or builder.run(name).status is StepStatus.STUCK:
        return
    match kind:
        case TimerKind.REPEAT:
            _repeat(builder, name)
        case TimerKind.DEADLINE:
            _overdue(builder, name)
        case _:
            assert_never(kind)


def _begin(builder: TransitionBuilder[S]) -> None:
    # A paused run is reminded again when it is resumed.
    if builder.instance.status is Status.SCHEDULED and not builder.instance.paused:
        builder.begin()


def _repeat(builder: TransitionBuilder[S], name: str) -> None:
    wait = builder.awaited(name).wait
    match wait:
        case Wait.REPEAT | Wait.ACCEPTED:
            builder.wait(name, Wait.SENDING)
        case Wait.ANEW:
            builder.make_next(name)
        case Wait.SENDING | Wait.ANSWER:
            pass
        case _:
            assert_never(wait)


def _overdue(builder: TransitionBuilder[S], name: str) -> None:
    awaited = builder.awaited(name)
    if awaited.wait is Wait.ANEW or awaited.deadline is None:
        return
    reason = "no definite answer by its deadline"
    if awaited.pending is None or builder.run(name).status is StepStatus.SENT:
        builder.note_about(name, Happening.OVERDUE, reason, awaited.id)
    if may_turn_back(builder, name) and not builder.instance.paused:
        in_doubt_for_good(builder, name, Cause("deadline", reason))
        return
    if awaited.wait in {Wait.ANSWER, Wait.ACCEPTED}:
        _show_overdue(builder, name, reason)
    if awaited.wait is Wait.ANSWER:
        builder.wait(name, Wait.SENDING)
    builder.put_awaited(name, replace(builder.awaited(name), deadline=None))


def _show_overdue(builder: TransitionBuilder[S], name: str, reason: str) -> None:
    run = builder.run(name)
    status = run.status if builder.is_undo(name) else StepStatus.IN_DOUBT
    builder.put(name, replace(run, status=status, reason=reason))
