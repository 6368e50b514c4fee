"""Answers to a run's commands: a participant's reply, or the command's burial."""

from __future__ import annotations

from typing import TypeVar, assert_never

from orchestrator.definition.steps import Kind, Step, WhenLocked
from orchestrator.machine import skipping
from orchestrator.machine.commands import jitter
from orchestrator.machine.instance import Cause, StepStatus, Wait
from orchestrator.machine.later_answers import accepted, bounded, pended
from orchestrator.machine.results import take_in
from orchestrator.machine.signals import ACCEPTED, Replied
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
from orchestrator.machine.turning_back import (
    in_doubt_for_good,
    may_be_undone,
    may_turn_back,
    turn_back,
    undo_once_more,
    undone,
)
from outbox.replacing import replace
from outbox.replies import DEAD_LETTER, Outcome, Reply
from outbox.safe_text import fit, told

S = TypeVar("S")

_BY_RELAY = "became a dead letter of the orchestrator (sagabox dead-letters)"


def replied(builder: TransitionBuilder[S], signal: Replied) -> None:
    """Take in a participant's reply to a command, or a transport's acceptance."""
    command_id, reply = signal.command_id, signal.reply
    words = told(reply)
    if signal.source is not None and not _came_from_its_participant(builder, signal, words):
        return
    if signal.source is not None and reply.outcome is Outcome.REJECTED:
        _given_up(builder, command_id, words, _by_consumer(signal.source, reply))
        return
    skipped = builder.instance.step_skipped_by(command_id)
    if skipped is not None:
        skipping.void_replied(builder, skipped, reply, words)
        return
    if reply.outcome is ACCEPTED.outcome and reply.code == ACCEPTED.code:
        accepted(builder, command_id)
        return
    name = builder.instance.step_awaiting(command_id)
    if name is None or not _counts(builder, name, reply):
        _late_answer(builder, signal, words)
        return
    if reply.is_pending:
        pended(builder, name, reply, words)
        return
    if builder.awaited(name).pending is not None:
        builder.put_awaited(name, replace(builder.awaited(name), pending=None))
    builder.note_about(name, Happening.ANSWERED, words, command_id)
    if reply.outcome is Outcome.DONE and not builder.is_undo(name):
        builder.remember_done(name, command_id)
    if builder.run(name).skip is not None:
        skipping.answered(builder, name, reply)
    elif builder.is_undo(name):
        _undo_answered(builder, name, reply, words)
    else:
        _action_answered(builder, builder.saga.step(name), reply, words)


def buried(builder: TransitionBuilder[S], command_id: str, reason: str) -> None:
    """Take in that a command became a dead letter of the orchestrator."""
    _given_up(builder, command_id, reason, _BY_RELAY)


def _by_consumer(name: str, reply: Reply) -> str:
    """How a command was given up behind a broker, and where it lies, if its consumer keeps it."""
    how = f"was given up by the consumer of {name}"
    if reply.code == DEAD_LETTER:
        how += f", which keeps it (sagabox outbox received list --service {name})"
    return how


def _given_up(builder: TransitionBuilder[S], command_id: str, reason: str, how: str) -> None:
    name = builder.instance.step_of(command_id)
    if name is None:
        builder.note_stray(Happening.BURIED, reason, command_id)
        return
    if name == builder.instance.step_skipped_by(command_id):
        skipping.void_given_up(builder, name, reason, how)
        return
    builder.note_about(name, Happening.BURIED, reason, command_id)
    run = builder.run(name)
    awaits_it = name == builder.instance.step_awaiting(command_id)
    if awaits_it and run.answer_counts and run.skip is None:
        in_doubt_for_good(builder, name, Cause("dead-letter", f"its command {how}: {reason}"))


def _came_from_its_participant(builder: TransitionBuilder[S], signal: Replied, words: str) -> bool:
    """Whether an answer that came as a message is from the participant that its command went to. A
    definite answer makes the command's message needless, so it is withdrawn."""
    name = builder.instance.step_of(signal.command_id)
    if name is None:
        return True  # noted as a stray, from any service
    participant = builder.saga.action_type(name).owner
    if signal.source != participant:
        detail = f"from {signal.source}, not from {participant}: {words}"
        builder.note_stray(Happening.REJECTED_ANSWER, detail, signal.command_id)
        return False
    if signal.reply.outcome.is_final:
        builder.withdraw(signal.command_id)
    return True


def _counts(builder: TransitionBuilder[S], name: str, reply: Reply) -> bool:
    """Whether an answer to the step's awaited command decides anything. "Not yet" decides nothing
    for a step that waits to be repeated, where it is a duplicate, nor for one that is stuck, which
    only shows that its answer comes later."""
    run = builder.run(name)
    if reply.outcome.is_final or not run.answer_counts:
        return run.answer_counts
    is_stuck = run.status is StepStatus.STUCK and not reply.is_pending
    return builder.awaited(name).wait is not Wait.REPEAT and not is_stuck


# Answers to an action


def _action_answered(
    builder: TransitionBuilder[S], step: Step[S], reply: Reply, words: str
) -> None:
    match reply.outcome:
        case Outcome.DONE:
            take_in(builder, step, reply)
        case Outcome.REFUSED if reply.after_pending and step.kind is Kind.COMPENSATABLE:
            # What its handler wrote was committed, and only its compensation takes that back.
            in_doubt_for_good(builder, step.name, _cause(reply))
        case Outcome.REFUSED | Outcome.ALREADY_UNDONE | Outcome.EXPIRED:
            if step.kind is Kind.RETRIABLE:
                _try_anew_later(builder, step.name, words)
            else:
                _refused(builder, step.name, reply, words)
        case Outcome.LOCKED if step.when_locked is WhenLocked.REJECT:
            # A copy of the command may still find the lock gone, so this is no refusal.
            in_doubt_for_good(builder, step.name, Cause("locked", words))
        case Outcome.LOCKED | Outcome.ONGOING:
            _repeat_later(builder, step.name, reply, words)
        case Outcome.TOO_OLD | Outcome.UNKNOWN | Outcome.NOTHING_TO_UNDO:
            in_doubt_for_good(builder, step.name, Cause(reply.outcome.value, words))
        case Outcome.TOO_BUSY | Outcome.NOT_ATTEMPTED | Outcome.FAILED | Outcome.REJECTED:
            _undecided(builder, step.name, words)
        case _:
            assert_never(reply.outcome)


def _refused(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    builder.settle(name, StepStatus.REFUSED, words)
    turn_back(builder, f"step {name!r} was not done: {words}", _cause(reply))


def _cause(reply: Reply) -> Cause:
    """The cause of turning back, in the participant's words; without a reason, the outcome."""
    return Cause(fit(reply.code or reply.outcome.value), reply.reason or reply.outcome.value)


# Answers to a compensation


def _undo_answered(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    match reply.outcome:
        case Outcome.DONE | Outcome.NOTHING_TO_UNDO:
            undone(builder, name)
        case Outcome.REFUSED | Outcome.ALREADY_UNDONE:
            # The latter where the void of a skip has barred it, before an operator had it retried.
            _try_anew_later(builder, name, words)
        case Outcome.LOCKED | Outcome.ONGOING:
            _repeat_later(builder, name, reply, words)
        case Outcome.UNKNOWN | Outcome.TOO_OLD | Outcome.EXPIRED:
            builder.wait(name, Wait.ANEW)
            builder.stick(name, f"its compensation was answered {words}")
        case Outcome.TOO_BUSY | Outcome.NOT_ATTEMPTED | Outcome.FAILED | Outcome.REJECTED:
            _undecided(builder, name, words)
        case _:
            assert_never(reply.outcome)


# Answers to either


def _undecided(builder: TransitionBuilder[S], name: str, words: str) -> None:
    """Only note the answer, since the relay goes on delivering the command."""
    builder.put(name, replace(builder.run(name), reason=words))


def _repeat_later(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    """Repeat the same command later, since "locked" or "ongoing" decides nothing."""
    seconds = _next_try(builder, name, words)
    ends_otherwise = reply.outcome is Outcome.ONGOING or may_turn_back(builder, name)
    if seconds is None and not ends_otherwise:
        builder.stick(name, f"it was still answered {words}")
        return
    if seconds is None:
        seconds = builder.saga.step(name).retry.ceiling
    builder.wait(name, Wait.REPEAT, bounded(max(seconds, reply.retry_after or 0)))


def _try_anew_later(builder: TransitionBuilder[S], name: str, words: str) -> None:
    """Send a new command after a pause, or wait for an operator: it was refused where it must
    succeed."""
    seconds = _next_try(builder, name, words)
    if seconds is None or builder.run(name).status is StepStatus.STUCK:
        builder.wait(name, Wait.ANEW)
        builder.stick(name, f"it was still answered {words}")
    else:
        builder.wait(name, Wait.ANEW, bounded(seconds))


def _next_try(builder: TransitionBuilder[S], name: str, words: str) -> float | None:
    """Count one more try. Returns the seconds until it; None where the step's policy gives up."""
    run = builder.run(name)
    builder.put(name, replace(run, tries=run.tries + 1, reason=words))
    chance = jitter(builder.awaited(name).id, run.tries)
    return builder.saga.step(name).retry.delay(run.tries + 1, chance)


# Answers that no step awaits


def _late_answer(builder: TransitionBuilder[S], signal: Replied, words: str) -> None:
    """Note an answer that no step awaits. It changes nothing, except where it tells that an action
    ran which does not count as in effect."""
    command_id, reply = signal.command_id, signal.reply
    name = builder.instance.step_of(command_id)
    if name is None:
        builder.note_stray(Happening.LATE_ANSWER, words, command_id)
        return
    builder.note_about(name, Happening.LATE_ANSWER, words, command_id)
    run = builder.run(name)
    if command_id in run.action_ids and reply.outcome is Outcome.DONE:
        _late_success(builder, name, command_id, is_message=signal.source is not None)
    elif command_id in run.void_ids and run.status is StepStatus.SKIPPED:
        # It was skipped once more, without this answer.
        for id in sorted(skipping.successes(reply) & set(run.action_ids)):
            builder.add_stray_effect(name, id)


def _late_success(
    builder: TransitionBuilder[S], name: str, command_id: str, *, is_message: bool
) -> None:
    """Have the action undone that ran after its undo, or was taken for one that did not run.

    Where that is not possible any more its effect is a stray one: after the end the entity may be
    another run's.
    """
    status = builder.run(name).status
    is_undone = status in {StepStatus.UNDONE, StepStatus.REFUSED}
    is_passed_over = status is StepStatus.SKIPPED and name not in builder.instance.not_undone
    is_live = builder.instance.ended is None
    if is_live and may_be_undone(builder, name) and not is_passed_over:
        _account_for(builder, name, command_id, is_undone=is_undone, is_message=is_message)
    elif is_undone or is_passed_over:
        builder.add_stray_effect(name, command_id)


def _account_for(
    builder: TransitionBuilder[S], name: str, command_id: str, *, is_undone: bool, is_message: bool
) -> None:
    """See to it that a compensation comes after the action's success."""
    if is_undone:
        undo_once_more(builder, name)
    elif builder.is_undo(name) and is_message:
        # Told by itself, it may have run after this compensation, whose answer is still to come.
        builder.put_awaited(name, replace(builder.awaited(name), action_ran=True))
    elif builder.is_undo(name):
        return  # A message follows, if it ran after this compensation.
    builder.remember_done(name, command_id)
