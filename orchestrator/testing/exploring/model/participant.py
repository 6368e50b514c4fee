"""A participant in the abstract: the rules of the inbox, and a memory of what took effect.

It is written from the rules alone and shares no code with the library's inbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.machine.transition import Dispatch
from orchestrator.testing.exploring.model.effects import TAKEN_BACK, lettered
from orchestrator.testing.exploring.model.rows import (
    PENDING,
    UNKNOWN,
    UNSTORED,
    Answer,
    Known,
    Row,
    Rows,
    Task,
    Told,
    bar,
    named,
    to_undo,
    void,
    waits,
    without,
)
from outbox.replies import Outcome

_WITHOUT_EFFECT = {Outcome.EXPIRED: Row.BARRED, Outcome.REFUSED: Row.REFUSED}


@dataclass(frozen=True)
class Participant:
    """`rows` is the inbox, by id. `effects` has for a step what took effect, in letters. `tasks`
    are the calls that go on. The outside says the same to each call for a command: `keys` has
    whether it had its effect. Without `barrier`, only duplicates are recognised."""

    rows: frozenset[tuple[str, Known]] = frozenset()
    effects: frozenset[tuple[str, str]] = frozenset()
    tasks: frozenset[Task] = frozenset()
    keys: frozenset[tuple[str, bool]] = frozenset()
    barrier: bool = field(default=True, compare=False)

    def effect(self, step: str) -> str:
        """The letters of one step."""
        return dict(self.effects).get(step, "")

    def knows(self, id: str) -> bool:
        """Whether a command of that id will be answered from memory, for ever."""
        known = dict(self.rows).get(id)
        is_open = known is None or known.row in (Row.PENDING, Row.UNDOING)
        return not is_open and all(task.id != id for task in self.tasks)

    def pending(self) -> list[str]:
        """The ids of what is to be completed by another than a call."""
        return sorted(id for id, it in self.rows if it.row is Row.PENDING and not it.call)

    def is_live(self, task: Task) -> bool:
        """Whether the time of that call has not passed."""
        known = dict(self.rows)[task.id]
        return known.is_live and known.call == task.call

    def was_said(self, task: Task) -> bool:
        """Whether the outside has answered a call for that command."""
        return task.id in dict(self.keys)

    def late(self) -> frozenset[str]:
        """The ids of the actions whose success came after an undo had looked at them."""
        return frozenset(id for id, known in self.rows if known.is_late and known.row is Row.RAN)

    def may_be_told(self, actions: Sequence[str], told: frozenset[str]) -> bool:
        """Whether a success of one of these actions is late, and its message yet to come: it is
        one of those that are being `told`, or is not stored yet."""
        return any(id in told for id in actions) or any(
            task.id in actions and (task.id, True) in self.keys for task in self.tasks
        )

    def decides(self, command: Dispatch) -> bool:
        """Whether the handler would run, so that it could say yes or no."""
        rows = dict(self.rows)
        if command.id in rows or command.is_void:
            return False
        if not command.undoes or not self.barrier:
            return True
        return not waits(command, rows) and bool(to_undo(command, rows))

    def takes_over(self, command: Dispatch) -> bool:
        """Whether its call is to be made once more, if the outside promises one effect for a key;
        else what became of it is unknown."""
        known = dict(self.rows).get(command.id)
        return known is not None and known.row is Row.PENDING and known.is_in_doubt

    # Commands that arrive

    def receive(self, command: Dispatch, wish: Answer) -> tuple[Participant, Answer]:
        """What becomes of the participant, and its answer; `wish` is what its handler answers, if
        it runs: DONE, REFUSED, LOCKED, ONGOING, PENDING or CALLING; or it is EXPIRED, before the
        handler runs. Where a call may be taken over, it is CALLING or UNKNOWN."""
        rows = dict(self.rows)
        if command.id in rows:
            return self._again(command, rows, wish)
        if self.barrier and waits(command, rows):
            return self, PENDING
        if command.is_void:
            return self._void(command, rows)
        if not self.decides(command):
            # An undo that finds nothing to do.
            bar(command, rows)
            rows[command.id] = Known(Row.RAN, Answer(Outcome.NOTHING_TO_UNDO))
            return self._become(rows), Answer(Outcome.NOTHING_TO_UNDO)
        if wish.outcome in UNSTORED and not wish.later:
            return self, wish
        if command.undoes and self.barrier:
            bar(command, rows)
        if wish.outcome is Outcome.ONGOING:
            return self._begin(command, rows, wish), wish
        if wish.outcome in _WITHOUT_EFFECT:
            rows[command.id] = Known(_WITHOUT_EFFECT[wish.outcome], wish)
            return self._become(rows), wish
        rows[command.id] = Known(Row.RAN, wish)
        done = replace(self, effects=self._done(command, rows))
        for action in to_undo(command, rows) if self.barrier else ():
            rows[action] = rows[action]._replace(row=Row.UNDONE, is_live=False, is_late=False)
        return done._become(rows), wish

    def _void(self, command: Dispatch, rows: Rows) -> tuple[Participant, Answer]:
        told = void(command, rows)
        answer = Answer(Outcome.DONE, told=told)
        rows[command.id] = Known(Row.RAN, answer)
        effects = self.effects
        of_action = all(it.by not in named(command) for _, it in self.rows)
        is_over = any(state == "pending" and not rows[id].call for id, state, _ in told)
        if is_over and of_action:
            # What completes it hears that it is too late, and takes back what the handler wrote.
            effects = self._lettered(command.step, TAKEN_BACK)
        return replace(self, effects=effects)._become(rows), answer

    def _again(self, command: Dispatch, rows: Rows, wish: Answer) -> tuple[Participant, Answer]:
        known = rows[command.id]
        match known.row:
            case Row.UNDOING | Row.UNDONE:
                return self, Answer(Outcome.ALREADY_UNDONE)
            case Row.PENDING if self.takes_over(command) and wish.later:
                call = known.call + 1
                rows[command.id] = known._replace(call=call, is_live=True)
                tasks = self.tasks | {Task(command.id, call)}
                return replace(self, tasks=tasks)._become(rows), PENDING._replace(call=call)
            case Row.PENDING if self.takes_over(command):
                if not command.undoes:
                    return self, UNKNOWN
                # A person looks at it, and may have it undone by another command.
                rows[command.id] = known._replace(row=Row.RAN, answer=UNKNOWN)
                undoing = [it for it in command.undoes if rows[it].by == command.id]
                self._end_undoing(command, rows, is_done=False)
                for action in undoing:
                    if not rows[action].is_late:
                        rows[action] = rows[action]._replace(by=command.id, is_seen=True)
                return self._become(rows), UNKNOWN
            case Row.PENDING:
                return self, PENDING._replace(call=known.call)
            case Row.BARRED if known.is_in_doubt:
                return self, UNKNOWN
            case _:
                return self, known.answer

    def _begin(self, command: Dispatch, rows: Rows, wish: Answer) -> Participant:
        rows[command.id] = Known(Row.PENDING, wish, wish.call, is_live=wish.call > 0)
        for action in to_undo(command, rows):
            was = rows[action]
            # A success that came late before is what this undo looks at.
            begun = was._replace(row=Row.UNDOING, was=was.row, is_live=False, is_late=False)
            rows[action] = begun._replace(by=command.id)
        if wish.call:
            return replace(self, tasks=self.tasks | {Task(command.id, 1)})._become(rows)
        effects = self.effects if command.undoes else self._lettered(command.step, "P")
        return replace(self, effects=effects)._become(rows)

    # Answers that come later

    def complete(self, command: Dispatch, answer: Answer) -> tuple[Participant, Told]:
        """What becomes of it where that answer to a pending command is stored, and what is told;
        nothing where it comes too late, or twice. `answer.call` is the attempt of the call that
        ends with it, 0 where a person or another service completes it."""
        rows = dict(self.rows)
        known, call = rows[command.id], answer.call
        # What the outside refuses has left nothing behind.
        is_late = answer.outcome is Outcome.REFUSED and not command.undoes and not call
        answer = answer._replace(call=0, later=is_late or answer.outcome is Outcome.ONGOING)
        called = self
        if call:
            assert self.may_end(command, answer.outcome, call), "it cannot end like this"
            called = self._called(command, answer.outcome)
            called = replace(called, tasks=without(self.tasks, command.id, call))
        if known.row is Row.PENDING and known.call == call:
            if answer.outcome is Outcome.ONGOING:
                rows[command.id] = known._replace(answer=answer, call=0, is_live=False)
                # Any other attempt is told the same, which ends it.
                others = frozenset(task for task in self.tasks if task.id != command.id)
                return replace(called, tasks=others)._become(rows), ()
            return called._concluded(command, rows, answer)
        if not call or answer.outcome is not Outcome.DONE:
            return called, ()
        # A success is never dropped where an undo may not have seen it.
        match known.row:
            case Row.UNDOING:
                rows[command.id] = known._replace(answer=answer, is_late=True)
                return called._become(rows), ()
            case Row.UNDONE | Row.BARRED:
                rows[command.id] = Known(Row.RAN, answer, call=1, is_late=True)
                return called._become(rows), ((command.id, answer),)
            case Row.RAN if known.answer == UNKNOWN:
                rows[command.id] = Known(Row.RAN, answer)
                for action in command.undoes:
                    if rows[action].is_seen and rows[action].by == command.id:
                        rows[action] = rows[action]._replace(row=Row.UNDONE, is_seen=False)
                return called._become(rows), ((command.id, answer),)
            case _:
                # The attempt that took over finds the same effect, under the same key.
                return called, ()

    def may_end(self, command: Dispatch, outcome: Outcome, call: int) -> bool:
        """Whether such a call goes on, and may come to that. That it goes on outside (ONGOING) is
        not said to one that another attempt has taken over, or that an undo has looked at."""
        if Task(command.id, call) not in self.tasks:
            return False
        said = dict(self.keys).get(command.id)
        if said is not None:
            return outcome is (Outcome.DONE if said else Outcome.REFUSED)
        known = dict(self.rows)[command.id]
        fits = known.row is Row.PENDING and known.call == call and not known.is_seen
        return fits or outcome is not Outcome.ONGOING

    def die(self, command: Dispatch, call: int, *, called: bool) -> Participant:
        """What becomes of it where the process that makes the call dies, after the call has had
        its effect or before; its result is never stored, and its time passes."""
        after = self._called(command, Outcome.DONE) if called else self
        return replace(after, tasks=without(self.tasks, command.id, call))._expired(command, call)

    def overdue(self, command: Dispatch, call: int, *, called: bool) -> Participant:
        """What becomes of it where the time of the call passes, and it goes on all the same."""
        after = self._called(command, Outcome.DONE) if called else self
        return after._expired(command, call)

    def _expired(self, command: Dispatch, call: int) -> Participant:
        rows = dict(self.rows)
        if rows[command.id].call == call:
            rows[command.id] = rows[command.id]._replace(is_live=False)
        return self._become(rows)

    def _concluded(self, command: Dispatch, rows: Rows, answer: Answer) -> tuple[Participant, Told]:
        known = rows[command.id]
        called, is_done = known.call > 0, answer.outcome is Outcome.DONE
        told: Told = ((command.id, answer),)
        effects = self.effects
        # What an undo outside has undone before, the answer to the action does not change.
        counts = command.undoes or self.effect(command.step) == "P"
        if not called and counts and is_done:
            effects = self._done(command, rows)
        elif counts and answer.later:
            effects = self._lettered(command.step, TAKEN_BACK)
        row = Row.RAN if is_done or answer.later else Row.REFUSED
        rows[command.id] = Known(row, answer, call=int(called), is_late=is_done and known.is_seen)
        told += self._end_undoing(command, rows, is_done=is_done)
        return replace(self, effects=effects)._become(rows), told

    def _end_undoing(self, undo: Dispatch, rows: Rows, *, is_done: bool) -> Told:
        told: Told = ()
        for action in undo.undoes:
            known = rows[action]
            if known.row is not Row.UNDOING or known.by != undo.id:
                continue
            row = Row.RAN if known.is_late else Row.UNDONE if is_done else known.was or Row.RAN
            rows[action] = known._replace(row=row, was=None, by="")
            if known.is_late:
                told += ((action, known.answer),)
        return told

    # Effects

    def _called(self, command: Dispatch, said: Outcome) -> Participant:
        """After what the outside has said; said once more, it has no second effect."""
        if command.id in dict(self.keys):
            return self
        effects = self.effects
        if said is Outcome.DONE:
            effects = self._lettered(command.step, "D" if command.undoes else "A")
        elif said is Outcome.ONGOING and not command.undoes:
            effects = self._lettered(command.step, "P")
        keys = self.keys | {(command.id, said is not Outcome.REFUSED)}
        return replace(self, keys=keys, effects=effects)

    def _done(self, command: Dispatch, rows: Mapping[str, Known]) -> frozenset[tuple[str, str]]:
        if not command.undoes:
            return self._lettered(command.step, "A")
        asks_outside = any(rows[it].call for it in command.undoes if it in rows)
        return self._lettered(command.step, "D" if asks_outside else "C")

    def _lettered(self, step: str, letter: str) -> frozenset[tuple[str, str]]:
        effects = dict(self.effects)
        effects[step] = lettered(effects.get(step, ""), letter)
        return frozenset(effects.items())

    def _become(self, rows: Rows) -> Participant:
        return replace(self, rows=frozenset(rows.items()))
