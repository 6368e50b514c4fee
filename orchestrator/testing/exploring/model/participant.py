"""A participant in the abstract: the rules of the inbox, and a memory of what took effect.

It is written from the rules alone and shares no code with the library's inbox.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from orchestrator.machine.transition import Dispatch
from outbox.replies import Outcome


class Row(Enum):
    """What the inbox knows of an id."""

    RAN = "ran"
    REFUSED = "refused"
    BARRED = "barred"
    UNDONE = "undone"


class Answer(NamedTuple):
    """What a participant says. `choice` is which of the values that the step may be answered
    with."""

    outcome: Outcome
    choice: int = 0


UNSTORED = frozenset({Outcome.LOCKED, Outcome.ONGOING})
"""Answers of a handler that leave nothing behind: asked again, it may say something else."""


@dataclass(frozen=True)
class Participant:
    """`rows` is the inbox: id -> (state, stored answer). `effects` has a letter for everything that
    took effect for a step, in order: A for its action, C for its compensation. Without `barrier`,
    only duplicates are recognised."""

    rows: frozenset[tuple[str, Row, Answer]] = frozenset()
    effects: frozenset[tuple[str, str]] = frozenset()
    barrier: bool = field(default=True, compare=False)

    def effect(self, step: str) -> str:
        """The letters of one step."""
        return dict(self.effects).get(step, "")

    def knows(self, id: str) -> bool:
        """Whether a command of that id will be answered from memory, for ever."""
        return any(id == known for known, _, _ in self.rows)

    def decides(self, command: Dispatch) -> bool:
        """Whether the handler would run, so that it could say yes or no."""
        found = {id: row for id, row, _ in self.rows}
        if command.id in found:
            return False
        if not command.undoes or not self.barrier:
            return True
        return any(found.get(action) is Row.RAN for action in command.undoes)

    def receive(self, command: Dispatch, wish: Answer) -> tuple[Participant, Answer]:
        """What becomes of the participant, and its answer; `wish` is what its handler answers, if
        it runs: DONE, REFUSED, LOCKED or ONGOING; or it is EXPIRED, before the handler runs."""
        rows = {id: (row, answer) for id, row, answer in self.rows}
        if command.id in rows:
            return self, rows[command.id][1]
        if not self.decides(command):
            # An undo that finds nothing to do.
            self._bar(command, rows)
            rows[command.id] = (Row.RAN, Answer(Outcome.NOTHING_TO_UNDO))
            return self._become(rows), Answer(Outcome.NOTHING_TO_UNDO)
        if wish.outcome in UNSTORED:
            return self, wish
        if command.undoes and self.barrier:
            self._bar(command, rows)
        if wish.outcome is Outcome.EXPIRED:
            rows[command.id] = (Row.BARRED, wish)
            return self._become(rows), wish
        if wish.outcome is Outcome.REFUSED:
            rows[command.id] = (Row.REFUSED, wish)
            return self._become(rows), wish
        for action in command.undoes if self.barrier else ():
            if rows[action][0] is Row.RAN:
                rows[action] = (Row.UNDONE, Answer(Outcome.ALREADY_UNDONE))
        rows[command.id] = (Row.RAN, wish)
        return self._become(rows, command.step, "C" if command.undoes else "A"), wish

    def _bar(self, undo: Dispatch, rows: dict[str, tuple[Row, Answer]]) -> None:
        for action in undo.undoes:
            rows.setdefault(action, (Row.BARRED, Answer(Outcome.ALREADY_UNDONE)))

    def _become(
        self, rows: dict[str, tuple[Row, Answer]], step: str = "", letter: str = ""
    ) -> Participant:
        effects = dict(self.effects)
        if letter:
            effects[step] = effects.get(step, "") + letter
        return Participant(
            frozenset((id, *row) for id, row in rows.items()),
            frozenset(effects.items()),
            self.barrier,
        )
