"""The builder of one transition: it records the machine's decisions, and decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from orchestrator.definition.saga import Saga
from orchestrator.machine.commands import action_of, compensation_of, dispatch_of, void_of
from orchestrator.machine.instance import (
    Awaited,
    Instance,
    Skipping,
    Status,
    StepRun,
    StepStatus,
    StrayEffect,
    Wait,
)
from orchestrator.machine.signals import TimerKind
from orchestrator.machine.transition import Dispatch, Entry, Happening, Timer, Transition
from outbox.replacing import replace
from outbox.safe_text import described, fit

S = TypeVar("S")

MAX_NOTES = 20
"""The most lines that the history gets about one command; further ones are only counted."""


class TransitionBuilder(Generic[S]):
    """One transition of a run while it is worked out, at that `moment`; `instance` is the run as it
    stands by now."""

    def __init__(self, saga: Saga[S], instance: Instance[S], moment: datetime) -> None:
        self.saga = saga
        # A dict of its own, so that a step can be put without a copy of all the others.
        self._steps = {**instance.steps}
        self.instance = replace(instance, steps=self._steps)
        self.moment = moment
        self._commands: list[Dispatch] = []
        self._timers: list[Timer] = []
        self._withdrawn: list[str] = []
        self._history: list[Entry] = []

    def transition(self) -> Transition[S]:
        """The transition with everything recorded so far."""
        return Transition(
            instance=self.instance,
            commands=tuple(self._commands),
            timers=tuple(self._timers),
            withdrawn=tuple(dict.fromkeys(self._withdrawn)),
            history=tuple(self._history),
        )

    def run(self, name: str) -> StepRun:
        """The step's record as it stands."""
        return self._steps[name]

    def put(self, name: str, run: StepRun) -> None:
        """Replace the step's record."""
        self._steps[name] = run

    def awaited(self, name: str) -> Awaited:
        """The command whose answer the step awaits; there must be one."""
        awaited = self.run(name).awaited
        assert awaited is not None, f"step {name!r} awaits nothing"
        return awaited

    def is_undo(self, name: str) -> bool:
        """Whether the step awaits the answer to its compensation."""
        awaited = self.run(name).awaited
        return awaited is not None and awaited.is_undo

    def put_awaited(self, name: str, awaited: Awaited, pause: timedelta | None = None) -> None:
        """Replace the command that the step awaits, with a timer where it waits for a time."""
        self.put(name, replace(self.run(name), awaited=awaited))
        if pause is not None:
            self.remind(TimerKind.REPEAT, awaited.id, pause)

    def wait(self, name: str, wait: Wait, pause: timedelta | None = None) -> None:
        """Set what the awaited command waits for, with a timer where it waits for a time."""
        self.put_awaited(name, replace(self.awaited(name), wait=wait), pause)

    def settle(self, name: str, status: StepStatus, reason: str | None = None) -> None:
        """Give the step a status in which it awaits nothing."""
        self.drop_skip(name)
        run = self.run(name)
        self.put(name, replace(run, status=status, awaited=None, kept=None, tries=0, reason=reason))

    def skip_once_known(self, name: str, result: Any) -> None:
        """Let a skip with that result wait for what became of the step's commands; `send_due` asks
        for that."""
        run = self.run(name)
        ids = run.undo_ids if self.is_undo(name) else run.action_ids
        void = void_of(self.instance, name, ids)
        void_ids = (*run.void_ids, void.id)
        self.put(name, replace(run, skip=Skipping(void, result), void_ids=void_ids))

    def put_void(self, name: str, void: Awaited, pause: timedelta | None = None) -> None:
        """Replace the void of the step's skip, with a timer where it waits for a time."""
        run = self.run(name)
        assert run.skip is not None, f"step {name!r} is not being skipped"
        self.put(name, replace(run, skip=replace(run.skip, void=void)))
        if pause is not None:
            self.remind(TimerKind.REPEAT, void.id, pause)

    def drop_skip(self, name: str) -> None:
        """Drop the step's skip, if it waits for an answer."""
        run = self.run(name)
        if run.skip is not None:
            self.withdraw(run.skip.void.id)
            self.put(name, replace(run, skip=None))

    def stick(self, name: str, reason: str) -> None:
        """Mark the step as stuck. The history gets one line, also for further reasons."""
        run = self.run(name)
        self.put(name, replace(run, status=StepStatus.STUCK, reason=fit(reason)))
        if run.status is not StepStatus.STUCK:
            self.note(Happening.STUCK, reason, name)

    def leave_in_place(self, name: str) -> None:
        """List the step as not undone."""
        left = dict.fromkeys((*self.instance.not_undone, name))
        self.instance = replace(self.instance, not_undone=tuple(left))

    def remember_done(self, name: str, command_id: str) -> None:
        """Remember that the success of this action of the step is accounted for."""
        run = self.run(name)
        if command_id not in run.done_ids:
            self.put(name, replace(run, done_ids=(*run.done_ids, command_id)))

    def add_stray_effect(self, name: str, command_id: str) -> None:
        """List the effect of an action of the step as a stray one, once, and only where its success
        is not accounted for: otherwise this is a copy of an answer that the run knows."""
        listed, run = self.instance.stray_effects, self.run(name)
        if command_id not in {*run.done_ids, *(it.command_id for it in listed)}:
            found = StrayEffect(name, command_id, self.moment)
            self.instance = replace(self.instance, stray_effects=(*listed, found))
            detail = f"its action took effect, and the step is {run.status}: nothing undoes that"
            self.note(Happening.STRAY_EFFECT, detail, name, command_id)

    def drop_stray_effects(self, name: str) -> None:
        """List no stray effects of the step any more."""
        left = tuple(it for it in self.instance.stray_effects if it.step != name)
        self.instance = replace(self.instance, stray_effects=left)

    def end(self, status: Status) -> None:
        """End the run with this final status."""
        self.instance = replace(self.instance, ended=status, paused=False)
        self.note(Happening.ENDED, status.value)

    def begin(self) -> None:
        """Let the run begin now."""
        self.instance = replace(self.instance, begin_at=None, created_at=self.moment)
        self.note(Happening.STARTED, str(self.saga))

    def remind_to_begin(self) -> None:
        """Set the timer of a run that is to begin later."""
        begin_at = self.instance.begin_at
        assert begin_at is not None, "the run has begun"
        self._timers.append(Timer(TimerKind.BEGIN, self.instance.id, begin_at))

    def make_next(self, name: str) -> None:
        """Make a new command in place of the awaited one, in the same direction."""
        if self.is_undo(name):
            self.make_undo(name)
        else:
            self.make_action(name)

    def make_action(self, name: str) -> None:
        """Make a new command that does the step; `send_due` sends it."""
        step, run = self.saga.step(name), self.run(name)
        awaited = self._made(name, lambda: action_of(self.saga, self.instance, step))
        if awaited is not None:
            ids = (*run.action_ids, awaited.id)
            run = replace(run, status=StepStatus.SENT, action_ids=ids, awaited=awaited, notes=0)
            self.put(name, run)

    def make_undo(self, name: str) -> None:
        """Make a new command that undoes the step; `send_due` sends it."""
        step, run = self.saga.step(name), self.run(name)
        awaited = self._made(name, lambda: compensation_of(self.saga, self.instance, step))
        if awaited is not None:
            # An action that is still on its way must not hold up its own undo.
            self.withdraw(*run.action_ids)
            ids = (*run.undo_ids, awaited.id)
            run = replace(run, status=StepStatus.UNDOING, undo_ids=ids, awaited=awaited, notes=0)
            self.put(name, run)

    def _made(self, name: str, make: Callable[[], Awaited]) -> Awaited | None:
        try:
            return make()
        except Exception as error:
            self.stick(name, f"its command could not be made: {described(error)}")
            return None

    def send_due(self) -> None:
        """Send every command that waits only for being sent. Those of stuck steps do not, but the
        voids of their skips do."""
        for name, run in self._steps.items():
            if run.skip is not None and run.skip.void.wait is Wait.SENDING:
                self._send_void(name, run.skip.void)
            is_due = run.awaited is not None and run.awaited.wait is Wait.SENDING
            if is_due and run.status is not StepStatus.STUCK:
                self.send(name, self.awaited(name))

    def send(self, name: str, awaited: Awaited) -> None:
        """Send the awaited command, and give it a deadline if it has none."""
        step = self.saga.step(name)
        deadline = awaited.deadline
        if deadline is None:
            deadline = self.moment + step.deadline
            self.remind(TimerKind.DEADLINE, awaited.id, step.deadline)
        happening = Happening.REPEATED if awaited.sendings else Happening.SENT
        sendings = awaited.sendings + 1
        due = awaited.due if awaited.sendings else self.moment
        awaited = replace(awaited, wait=Wait.ANSWER, deadline=deadline, sendings=sendings, due=due)
        self.put_awaited(name, awaited)
        self._commands.append(dispatch_of(self.saga, step, awaited))
        if awaited.pending is None:
            # Asked again for days, it would leave the history no room for the answer.
            self.note_about(name, happening, awaited.type, awaited.id)

    def _send_void(self, name: str, void: Awaited) -> None:
        due = void.due or self.moment
        sent = replace(void, wait=Wait.ANSWER, sendings=void.sendings + 1, due=due)
        self.put_void(name, sent)
        self._commands.append(dispatch_of(self.saga, self.saga.step(name), sent))
        if void.sendings == 0:
            self.note(Happening.SENT, void.type, name, void.id)

    def remind(self, kind: TimerKind, command_id: str, pause: timedelta) -> None:
        """Set a timer that guards the command."""
        self._timers.append(Timer(kind, command_id, self.moment + pause))

    def withdraw(self, *command_ids: str) -> None:
        """Withdraw commands: their messages must not leave any more."""
        self._withdrawn.extend(command_ids)

    def withdraw_awaited(self, name: str) -> None:
        """Withdraw the command that the step awaits, if any."""
        awaited = self.run(name).awaited
        if awaited is not None:
            self.withdraw(awaited.id)

    def note(
        self,
        happening: Happening,
        detail: str,
        step: str | None = None,
        command_id: str | None = None,
        actor: str | None = None,
    ) -> None:
        """Add a line to the history."""
        who = None if actor is None else fit(actor)
        self._history.append(Entry(self.moment, happening, fit(detail), step, command_id, who))

    def note_about(self, name: str, happening: Happening, detail: str, command_id: str) -> None:
        """Add a line about a command of the step, up to MAX_NOTES for each command."""
        run = self.run(name)
        if run.notes < MAX_NOTES:
            self.note(happening, detail, name, command_id)
        self.put(name, replace(run, notes=run.notes + 1))

    def note_stray(self, happening: Happening, detail: str, command_id: str) -> None:
        """Add a line about a command that this run never sent, up to MAX_NOTES for the run."""
        if self.instance.strays < MAX_NOTES:
            self.note(happening, detail, command_id=command_id)
        self.instance = replace(self.instance, strays=self.instance.strays + 1)
