"""The saga state machine: `start` and `advance` take values and return values, and nothing else
decides what a saga does.

All that can happen to a run is a `Signal`; what it leads to is a `Transition`. The one that calls
`advance` keeps the transition's instance, commands, timers and history together in one transaction.

Three rules carry the rest. What has no definite answer may have run. The run turns at most once,
and never after the point of no return may have happened. A step is undone only when no step that
came after it is in effect.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, assert_never

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind, Step, WhenLocked
from orchestrator.errors import InvalidInput
from orchestrator.machine import operator_rules
from orchestrator.machine.commands import jitter
from orchestrator.machine.instance import Direction, Instance, Status, StepRun, StepStatus, Wait
from orchestrator.machine.signals import (
    Buried,
    Cancel,
    OperatorSignal,
    Pause,
    Replied,
    Resolve,
    Resume,
    Retry,
    Signal,
    Skip,
    Terminate,
    TimerFired,
    TimerKind,
)
from orchestrator.machine.transition import Happening, Transition
from orchestrator.machine.transition_builder import Draft
from orchestrator.safe_text import described, fit, told
from outbox.ids import is_id
from outbox.replies import Outcome, Reply

S = TypeVar("S")

MAX_PAUSE = timedelta(days=1)
"""The longest that a participant may ask for in `retry_after`."""
MAX_UNDOS = 20
"""How often a step is undone once more because its action reports a success that late."""

_FINISHED = frozenset({StepStatus.DONE, StepStatus.SKIPPED})
_TO_BE_UNDONE = frozenset({StepStatus.DONE, StepStatus.IN_DOUBT})
_MAY_BE_IN_EFFECT = _TO_BE_UNDONE | {StepStatus.UNDOING, StepStatus.STUCK}


def start(saga: Saga[S], instance_id: str, state: S, now: datetime) -> Transition[S]:
    """A new run and its first commands. Raises InvalidInput where `state` cannot be its input, or
    `instance_id` is no UUIDv7."""
    if not is_id(instance_id):
        raise InvalidInput(
            f"{instance_id!r:.100} cannot be the id of a run",
            next_step="give it a UUIDv7 in lower case",
        )
    instance = Instance(
        id=instance_id,
        saga=saga.name,
        version=saga.version,
        key=saga.accept(state),
        state=state,
        steps={step.name: StepRun() for step in saga.steps},
        created_at=now,
    )
    turn = _Turn(saga, instance, now)
    turn.note(Happening.STARTED, str(saga))
    turn.go_on()
    return turn.transition()


def advance(saga: Saga[S], instance: Instance[S], signal: Signal, now: datetime) -> Transition[S]:
    """What `signal` leads to; `saga` is the definition that the run was started with.

    Only for a person's signals it raises: IllegalSignal where it is not possible now, InvalidInput
    where the result supplied does not fit. Whatever participants answer, and whatever the saga's
    own functions do, is taken in.
    """
    if (saga.name, saga.version) != (instance.saga, instance.version):
        raise ValueError(f"{instance.saga} v{instance.version} cannot go on as {saga}")
    turn = _Turn(saga, instance, now)
    match signal:
        case Replied():
            turn.replied(signal.command_id, signal.reply)
        case Buried():
            turn.buried(signal.command_id, signal.reason)
        case TimerFired():
            turn.timer_fired(signal.kind, signal.command_id)
        case Cancel() | Terminate() | Retry() | Skip() | Resolve() | Pause() | Resume():
            turn.operator(signal)
        case _:
            assert_never(signal)
    turn.go_on()
    return turn.transition()


class _Turn(Draft[S]):
    """One call of `start` or `advance`."""

    # What happened

    def replied(self, command_id: str, reply: Reply) -> None:
        name = self.instance.step_awaiting(command_id)
        if name is None or not self._counts(name, reply):
            self._late_answer(command_id, reply)
            return
        self.note_about(name, Happening.ANSWERED, told(reply), command_id)
        if self.is_undo(name):
            self._undo_answered(name, reply)
        else:
            self._action_answered(self.saga.step(name), reply)

    def buried(self, command_id: str, reason: str) -> None:
        name = self.instance.step_of(command_id)
        if name is None:
            self.note_stray(Happening.BURIED, reason, command_id)
            return
        self.note_about(name, Happening.BURIED, reason, command_id)
        awaits_it = name == self.instance.step_awaiting(command_id)
        if awaits_it and self.run(name).answer_counts:
            self._in_doubt_for_good(name, f"its command became a dead letter: {reason}")

    def timer_fired(self, kind: TimerKind, command_id: str) -> None:
        name = self.instance.step_awaiting(command_id)
        if name is None or self.run(name).status is StepStatus.STUCK:
            return
        match kind:
            case TimerKind.REPEAT:
                self._repeat(name)
            case TimerKind.DEADLINE:
                self._overdue(name)
            case _:
                assert_never(kind)

    def _counts(self, name: str, reply: Reply) -> bool:
        """Whether an answer to the step's awaited command says anything. "Not yet" says nothing to
        one that waits to be repeated, where it is a duplicate, nor to one that is stuck."""
        run = self.run(name)
        if reply.outcome.is_final or not run.answer_counts:
            return run.answer_counts
        return self.awaited(name).wait is not Wait.REPEAT and run.status is not StepStatus.STUCK

    # Answers to an action

    def _action_answered(self, step: Step[S], reply: Reply) -> None:
        match reply.outcome:
            case Outcome.DONE:
                self._take_in(step, reply)
            case Outcome.REFUSED | Outcome.ALREADY_UNDONE | Outcome.EXPIRED:
                if step.kind is Kind.RETRIABLE:
                    self._try_anew_later(step.name, reply)
                else:
                    self._refused(step.name, told(reply))
            case Outcome.LOCKED if step.when_locked is WhenLocked.REJECT:
                # A copy of the command may still find the lock gone, so this is no refusal.
                self._in_doubt_for_good(step.name, told(reply))
            case Outcome.LOCKED | Outcome.ONGOING:
                self._repeat_later(step.name, reply)
            case Outcome.TOO_OLD | Outcome.UNKNOWN | Outcome.NOTHING_TO_UNDO:
                self._in_doubt_for_good(step.name, told(reply))
            case Outcome.TOO_BUSY | Outcome.NOT_ATTEMPTED | Outcome.FAILED | Outcome.REJECTED:
                self._undecided(step.name, reply)
            case _:
                assert_never(reply.outcome)

    def _take_in(self, step: Step[S], reply: Reply) -> None:
        """The action took effect: let the saga's state learn from its answer."""
        run = self.run(step.name)
        try:
            state = self._learned(step, reply.value)
        except Exception as error:
            self.put(step.name, replace(run, kept=reply))
            self.stick(step.name, f"its answer could not be taken in: {described(error)}")
            return
        self.instance = replace(self.instance, state=state)
        self.settle(step.name, StepStatus.DONE)

    def _learned(self, step: Step[S], value: Any) -> S:
        """The state that knows of the answer. Raises what the saga's function raises, InvalidInput
        or InvalidMessage where value or state do not fit."""
        if step.on_reply is None:
            return self.instance.state
        state = step.on_reply(self.instance.state, self.saga.decode_reply(step.name, value))
        self.saga.check_state(state)
        return state

    def _refused(self, name: str, reason: str) -> None:
        self.settle(name, StepStatus.REFUSED, reason)
        self._turn_back(f"step {name!r} was not done: {reason}")

    # Answers to a compensation

    def _undo_answered(self, name: str, reply: Reply) -> None:
        match reply.outcome:
            case Outcome.DONE | Outcome.NOTHING_TO_UNDO:
                self.settle(name, StepStatus.UNDONE)
            case Outcome.REFUSED:
                self._try_anew_later(name, reply)
            case Outcome.LOCKED | Outcome.ONGOING:
                self._repeat_later(name, reply)
            case Outcome.UNKNOWN | Outcome.TOO_OLD | Outcome.EXPIRED | Outcome.ALREADY_UNDONE:
                self.wait(name, Wait.ANEW)
                self.stick(name, f"its compensation was answered {told(reply)}")
            case Outcome.TOO_BUSY | Outcome.NOT_ATTEMPTED | Outcome.FAILED | Outcome.REJECTED:
                self._undecided(name, reply)
            case _:
                assert_never(reply.outcome)

    # Answers to either

    def _undecided(self, name: str, reply: Reply) -> None:
        """Whoever delivers the command goes on trying; here it is only shown."""
        self.put(name, replace(self.run(name), reason=told(reply)))

    def _repeat_later(self, name: str, reply: Reply) -> None:
        """Locked or ongoing: nothing is decided, so the same command goes out again."""
        seconds = self._next_try(name, reply)
        ends_otherwise = reply.outcome is Outcome.ONGOING or self._may_turn_back(name)
        if seconds is None and not ends_otherwise:
            self.stick(name, f"it was still answered {told(reply)}")
            return
        if seconds is None:
            seconds = self.saga.step(name).retry.ceiling
        self.wait(name, Wait.REPEAT, _pause(max(seconds, reply.retry_after or 0)))

    def _try_anew_later(self, name: str, reply: Reply) -> None:
        """Refused where it must succeed: a new command after a pause, or a person."""
        seconds = self._next_try(name, reply)
        if seconds is None or self.run(name).status is StepStatus.STUCK:
            self.wait(name, Wait.ANEW)
            self.stick(name, f"it was still answered {told(reply)}")
        else:
            self.wait(name, Wait.ANEW, _pause(seconds))

    def _next_try(self, name: str, reply: Reply) -> float | None:
        """Counts one more try. Seconds until it; None where the step's policy gives up."""
        run = self.run(name)
        self.put(name, replace(run, tries=run.tries + 1, reason=told(reply)))
        chance = jitter(self.awaited(name).id, run.tries)
        return self.saga.step(name).retry.delay(run.tries + 1, chance)

    def _late_answer(self, command_id: str, reply: Reply) -> None:
        """An answer that nobody awaits: noted, and no reason to go anywhere, except that an action
        which turns out to have run after its undo is undone once more.

        After the end not even that: the entity may be another run's by then.
        """
        name = self.instance.step_of(command_id)
        if name is None:
            self.note_stray(Happening.LATE_ANSWER, told(reply), command_id)
            return
        self.note_about(name, Happening.LATE_ANSWER, told(reply), command_id)
        run = self.run(name)
        ran = reply.outcome is Outcome.DONE and command_id in run.action_ids
        is_undone = run.status in {StepStatus.UNDONE, StepStatus.REFUSED}
        if not (ran and is_undone and self._may_be_undone(name)) or self.instance.ended is not None:
            return
        if len(run.undo_ids) < MAX_UNDOS:
            self.put(name, replace(run, status=StepStatus.IN_DOUBT))
        else:
            undos = len(run.undo_ids)
            self.stick(name, f"its action still reports success after {undos} compensations")

    # Timers

    def _repeat(self, name: str) -> None:
        wait = self.awaited(name).wait
        match wait:
            case Wait.REPEAT:
                self.wait(name, Wait.SENDING)
            case Wait.ANEW:
                self.make_next(name)
            case Wait.SENDING | Wait.ANSWER:
                pass
            case _:
                assert_never(wait)

    def _overdue(self, name: str) -> None:
        awaited = self.awaited(name)
        if awaited.wait is Wait.ANEW or awaited.deadline is None:
            return
        reason = "no definite answer by its deadline"
        self.note_about(name, Happening.OVERDUE, reason, awaited.id)
        if self._may_turn_back(name) and not self.instance.paused:
            self._in_doubt_for_good(name, reason)
            return
        if awaited.wait is Wait.ANSWER:
            self._shown_overdue(name, reason)
            self.wait(name, Wait.SENDING)
        self.put_awaited(name, replace(self.awaited(name), deadline=None))

    def _shown_overdue(self, name: str, reason: str) -> None:
        run = self.run(name)
        status = run.status if self.is_undo(name) else StepStatus.IN_DOUBT
        self.put(name, replace(run, status=status, reason=reason))

    # What a person asks for

    def operator(self, signal: OperatorSignal) -> None:
        verb = type(signal).__name__.lower()
        step = signal.step if isinstance(signal, Retry | Skip) else None
        operator_rules.check(self.saga, self.instance, verb, step)
        self.note(Happening.OPERATOR, f"{verb}: {signal.reason}", step, actor=signal.actor)
        match signal:
            case Cancel():
                self._turn_back(f"cancelled by {signal.actor}: {signal.reason}")
            case Terminate():
                self._end_by_hand(Status.TERMINATED)
            case Resolve():
                self._end_by_hand(Status.RESOLVED)
            case Retry():
                self._retry(signal.step)
            case Skip():
                self._skip(signal.step, signal.result)
            case Pause():
                self.instance = replace(self.instance, paused=True)
            case Resume():
                self.instance = replace(self.instance, paused=False)
            case _:
                assert_never(signal)

    def _retry(self, name: str) -> None:
        is_forward = self.instance.direction is Direction.FORWARD
        status = StepStatus.SENT if is_forward else StepStatus.UNDOING
        run = replace(self.run(name), status=status, tries=0, reason=None)
        self.put(name, run)
        if run.kept is not None:
            self._take_in(self.saga.step(name), run.kept)
        elif run.awaited is None:
            status = StepStatus.PENDING if is_forward else StepStatus.IN_DOUBT
            self.put(name, replace(run, status=status))
        elif run.awaited.wait is Wait.ANEW:
            self.make_next(name)
        else:
            self.put_awaited(name, replace(run.awaited, wait=Wait.SENDING, deadline=None))

    def _skip(self, name: str, result: Any) -> None:
        if self.instance.direction is Direction.BACKWARD:
            self.leave_in_place(name)
        else:
            try:
                state = self._learned(self.saga.step(name), result)
            except Exception as error:
                raise InvalidInput(
                    f"the result given for step {name!r} cannot be taken in: {described(error)}",
                    next_step="give what the step's command promises to answer",
                ) from error
            self.instance = replace(self.instance, state=state)
        self.withdraw_awaited(name)
        self.settle(name, StepStatus.SKIPPED)

    def _end_by_hand(self, status: Status) -> None:
        unknown = {StepStatus.SENT, StepStatus.UNDOING}
        for name in self.instance.steps:
            self.withdraw_awaited(name)
            run = replace(self.run(name), awaited=None, kept=None)
            if run.status is StepStatus.SKIPPED:
                self.leave_in_place(name)
            elif run.action_ids and run.status in _MAY_BE_IN_EFFECT | unknown:
                self.leave_in_place(name)
                if run.status in unknown:
                    run = replace(run, status=StepStatus.IN_DOUBT)
            self.put(name, run)
        self.end(status)

    # Turning back

    def _in_doubt_for_good(self, name: str, reason: str) -> None:
        """Whether the command ran cannot be found out by waiting."""
        if self._may_turn_back(name):
            self.put(name, replace(self.run(name), reason=fit(reason)))
            self._turn_back(f"step {name!r} is in doubt: {reason}")
        else:
            self.stick(name, reason)

    def _turn_back(self, reason: str) -> None:
        """From here on the run is undone. Every step that was ever sent and has no definite "no"
        is taken for one that may have run."""
        assert not operator_rules.passed(self.saga, self.instance)
        self.instance = replace(self.instance, direction=Direction.BACKWARD)
        self.note(Happening.TURNED_BACK, reason)
        for name, run in self.instance.steps.items():
            if run.status in {StepStatus.PENDING, StepStatus.REFUSED, StepStatus.DONE}:
                continue
            self.withdraw_awaited(name)
            if run.action_ids:
                self.settle(name, StepStatus.IN_DOUBT, run.reason)
            elif run.status is StepStatus.SKIPPED:
                # Done by hand: no command of ours knows how to undo that.
                self.leave_in_place(name)
            else:
                self.settle(name, StepStatus.PENDING, run.reason)

    # Going on

    def go_on(self) -> None:
        """Send all that can be sent now, and end where nothing is left."""
        if self.instance.ended is not None:
            return
        direction = self.instance.direction
        match direction:
            case Direction.FORWARD:
                self._go_forward()
            case Direction.BACKWARD:
                self._go_backward()
            case _:
                assert_never(direction)

    def _go_forward(self) -> None:
        if not self.instance.paused:
            for step in self.saga.steps:
                needs = self.saga.dependencies[step.name]
                is_pending = self.run(step.name).status is StepStatus.PENDING
                if is_pending and all(self.run(need).status in _FINISHED for need in needs):
                    self.make_action(step.name)
            self.send_due()
        if all(run.status in _FINISHED for run in self.instance.steps.values()):
            self.end(Status.COMPLETED)

    def _go_backward(self) -> None:
        if not self.instance.paused:
            for step in reversed(self.saga.steps):
                followers = self.saga.followers[step.name]
                is_ready = self.run(step.name).status in _TO_BE_UNDONE
                if is_ready and not any(
                    self.run(other).status in _MAY_BE_IN_EFFECT for other in followers
                ):
                    self.make_undo(step.name)
            self.send_due()
        if not any(run.status in _MAY_BE_IN_EFFECT for run in self.instance.steps.values()):
            self.end(Status.RESOLVED if self.instance.not_undone else Status.COMPENSATED)

    def _may_be_undone(self, name: str) -> bool:
        return self.saga.step(name).kind is Kind.COMPENSATABLE

    def _may_turn_back(self, name: str) -> bool:
        """Whether the run may turn back because of the command that the step awaits."""
        return self._may_be_undone(name) and not self.is_undo(name)


def _pause(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, MAX_PAUSE.total_seconds()))
