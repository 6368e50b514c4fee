"""Skips: an operator passes a stuck step over, once it is known whether its command ran.

A command that was sent and not answered for good may have run, or may run yet. A `Void` goes to its
participant, which tells what became of it, and keeps it from running from then on. Until that is
answered the step stays STUCK.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from orchestrator.errors import InvalidInput
from orchestrator.machine.instance import Direction, StepRun, StepStatus, Wait
from orchestrator.machine.later_answers import asked_again, told_pending
from orchestrator.machine.results import learned, take_in
from orchestrator.machine.signals import ACCEPTED
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import TransitionBuilder
from orchestrator.machine.turning_back import undone
from outbox.replacing import replace
from outbox.replies import Outcome, Reply
from outbox.safe_text import described
from outbox.wire import reply_json, strict_json

S = TypeVar("S")

_ON = "skip it again to go on without that answer, or retry it"
ASKED = f"it is skipped once its participant has said whether its command ran; {_ON}"
"""The reason of a step whose skip is not concluded."""


def skip(builder: TransitionBuilder[S], name: str, result: Any) -> None:
    """Skip the stuck step: at once where it is known that its command has no answer to come, or
    where an earlier skip waits for one. Raises InvalidInput where the result does not fit."""
    run = builder.run(name)
    if run.skip is None and _may_have_run(run):
        _check(builder, name, result)
        builder.withdraw_awaited(name)
        builder.skip_once_known(name, result)
        builder.stick(name, ASKED)
        return
    # The void of an earlier skip is left on its way, since it still bars what has not run.
    builder.put(name, replace(run, skip=None))
    try:
        _pass_over(builder, name, result)
    except Exception as error:
        raise _unfit(name, error) from error


def void_replied(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    """Take in a reply to the void of the step's skip."""
    skip = builder.run(name).skip
    assert skip is not None
    void = skip.void
    match reply.outcome:
        case Outcome.DONE:
            _told(builder, name, reply, words)
        case Outcome.ONGOING if reply.code == ACCEPTED.code:
            if void.wait is Wait.ANSWER:
                builder.put_void(name, *asked_again(void))
        case Outcome.LOCKED | Outcome.ONGOING:
            pending = told_pending(builder.moment, void, reply) if reply.is_pending else None
            builder.put_void(name, *asked_again(replace(void, pending=pending), reply.retry_after))
        case outcome if outcome.is_final:
            _unanswered(builder, name, f"its participant answered {words}", words)
        case _:
            pass  # the relay goes on delivering it


def void_given_up(builder: TransitionBuilder[S], name: str, reason: str, how: str) -> None:
    """Take in that the void of the step's skip was given up, as `how` says."""
    _unanswered(builder, name, f"the question {how}: {reason}", reason)


def answered(builder: TransitionBuilder[S], name: str, reply: Reply) -> None:
    """Conclude the step's skip by a definite answer to its own command, where that says whether it
    ran."""
    unclear = {Outcome.TOO_OLD, Outcome.UNKNOWN}
    if not builder.is_undo(name):
        unclear.add(Outcome.NOTHING_TO_UNDO)
    if reply.outcome not in unclear:
        _conclude(builder, name, [reply])


def successes(reply: Reply) -> frozenset[str]:
    """The ids of the commands that ran with success, by the answer to a void."""
    told = _replies_in(reply) or {}
    return frozenset(id for id, its in told.items() if its and its.outcome is Outcome.DONE)


def _may_have_run(run: StepRun) -> bool:
    """Whether the step's last command was sent and has no definite answer; each earlier one has."""
    return run.awaited is not None and run.awaited.sendings > 0 and run.answer_counts


def _told(builder: TransitionBuilder[S], name: str, reply: Reply, words: str) -> None:
    """Take in what a void's answer says of the step's commands."""
    run, told = builder.run(name), _replies_in(reply)
    assert run.skip is not None
    # An earlier compensation may have come before what this one is to undo.
    asked = (builder.awaited(name).id,) if builder.is_undo(name) else run.action_ids
    if told is None or not told.keys() >= set(asked):
        _unanswered(builder, name, f"its participant's answer cannot be read: {words}", words)
        return
    replies = [its for id in asked if (its := told[id]) is not None]
    ran = "ran" if any(_ran(builder, name, its) for its in replies) else "did not run"
    builder.note(Happening.ANSWERED, f"its command {ran}", name, run.skip.void.id)
    _conclude(builder, name, replies)


def _replies_in(reply: Reply) -> Mapping[str, Reply | None] | None:
    """The stored reply of each command that ran, and None for each that did not; None where this
    cannot be read."""
    try:
        return {
            id: _stored(told["reply"]) if told["state"] == "ran" else None
            for id, told in reply.value.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _stored(fields: object) -> Reply:
    return reply_json.loads(strict_json.dumps(fields))


def _ran(builder: TransitionBuilder[S], name: str, reply: Reply) -> bool:
    """Whether the command with this stored reply did what it was sent for."""
    if builder.is_undo(name):
        return reply.outcome in {Outcome.DONE, Outcome.NOTHING_TO_UNDO}
    return reply.outcome is Outcome.DONE


def _conclude(builder: TransitionBuilder[S], name: str, replies: Iterable[Reply]) -> None:
    """Take in that a command of the step ran, or pass it over where none did."""
    skip = builder.run(name).skip
    assert skip is not None
    builder.drop_skip(name)
    ran = next((it for it in replies if _ran(builder, name, it)), None)
    if ran is not None and builder.is_undo(name):
        undone(builder, name)
    elif ran is not None:
        take_in(builder, builder.saga.step(name), ran)
    else:
        try:
            _pass_over(builder, name, skip.result)
        except Exception as error:
            # The state has changed since the result was given.
            builder.stick(name, str(_unfit(name, error)))


def _pass_over(builder: TransitionBuilder[S], name: str, result: Any) -> None:
    """Take the step for done with that result, or leave it as it is. Raises what `learned` does."""
    if builder.instance.direction is Direction.BACKWARD:
        builder.leave_in_place(name)
    else:
        state = learned(builder, builder.saga.step(name), result)
        builder.instance = replace(builder.instance, state=state)
    builder.withdraw_awaited(name)
    builder.settle(name, StepStatus.SKIPPED)


def _check(builder: TransitionBuilder[S], name: str, result: Any) -> None:
    if builder.instance.direction is Direction.FORWARD:
        try:
            learned(builder, builder.saga.step(name), result)
        except Exception as error:
            raise _unfit(name, error) from error


def _unfit(name: str, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"the result given for step {name!r} cannot be taken in: {described(error)}",
        next_step="give what the step's command promises to answer",
    )


def _unanswered(builder: TransitionBuilder[S], name: str, problem: str, words: str) -> None:
    """Let the operator decide: it is not known whether the command ran."""
    skip = builder.run(name).skip
    assert skip is not None
    builder.note(Happening.ANSWERED, words, name, skip.void.id)
    builder.stick(name, f"it is not skipped yet, since {problem}; {_ON}")
