"""The rows of an abstract inbox, and what an undo finds among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from orchestrator.machine.transition import Dispatch
from outbox.contract import Void
from outbox.replies import Outcome
from outbox.wire.codec import decode


class Row(Enum):
    """What the inbox knows of an id."""

    RAN = "ran"
    REFUSED = "refused"
    BARRED = "barred"
    UNDONE = "undone"
    PENDING = "pending"
    UNDOING = "undoing"


class Answer(NamedTuple):
    """What a participant says. `choice` is which of the values that the step may be answered
    with. With ONGOING, `later` says that the answer comes later, and `call` counts the attempts of
    the call to the outside that is made for it, from 1; with REFUSED, `later` says that it came
    after that. To a void, `told` has the state of each command that it names, and what was answered
    if it ran."""

    outcome: Outcome
    choice: int = 0
    later: bool = False
    call: int = 0
    told: tuple[tuple[str, str, Answer | None], ...] = ()


PENDING = Answer(Outcome.ONGOING, later=True)
CALLING = Answer(Outcome.ONGOING, later=True, call=1)
UNKNOWN = Answer(Outcome.UNKNOWN)


class Known(NamedTuple):
    """A row. Of one that is PENDING by a call, `call` is the last attempt, and `is_live` says that
    its time has not passed. Of one that is UNDOING, `was` is what it was before, and `by` the undo,
    also where that `is_seen` to have looked at it, and did not say whether it was undone. `is_late`
    says that its success came after an undo had looked at it."""

    row: Row
    answer: Answer
    call: int = 0
    is_live: bool = False
    was: Row | None = None
    by: str = ""
    is_late: bool = False
    is_seen: bool = False

    @property
    def is_in_doubt(self) -> bool:
        """Whether a call for it was made, and what became of that is not known."""
        return self.call > 0 and (
            self.row is Row.BARRED or (self.row is Row.PENDING and not self.is_live)
        )


class Task(NamedTuple):
    """A process that makes a call for that command, and which attempt it is."""

    id: str
    call: int


UNSTORED = frozenset({Outcome.LOCKED, Outcome.ONGOING})
"""Answers of a handler that leave nothing behind, unless they come later: asked again, it may say
something else."""
Rows = dict[str, Known]
Told = tuple[tuple[str, Answer], ...]
"""Answers that are told as messages, each with the id of its command."""


def named(command: Dispatch) -> Sequence[str]:
    """The ids of the commands that an undo or a void names."""
    return decode(Void, command.data).ids if command.is_void else command.undoes


def bar(command: Dispatch, rows: Rows) -> None:
    """Bar what it names and is not known yet."""
    for id in named(command):
        rows.setdefault(id, Known(Row.BARRED, Answer(Outcome.ALREADY_UNDONE)))


def void(command: Dispatch, rows: Rows) -> tuple[tuple[str, str, Answer | None], ...]:
    """Bar what it names, is not known yet or is pending. Returns what was known of each."""
    found = [(id, rows.get(id)) for id in named(command)]
    bar(command, rows)
    for id, known in found:
        if known is not None and known.row is Row.PENDING:
            barred = Answer(Outcome.ALREADY_UNDONE)
            rows[id] = known._replace(row=Row.BARRED, answer=barred, is_live=False)
            for action, it in rows.items():
                if it.row is Row.UNDOING and it.by == id:
                    row = Row.RAN if it.is_late else it.was or Row.RAN
                    rows[action] = it._replace(row=row, was=None, is_seen=True)
    return tuple(
        (id, "absent", None)
        if known is None
        else (id, known.row.value, known.answer if known.row is Row.RAN else None)
        for id, known in found
    )


def waits(command: Dispatch, rows: Mapping[str, Known]) -> bool:
    """Whether an undo or a void has to wait, for a call that goes on or for another undo."""
    found = [rows[id] for id in named(command) if id in rows]
    return any(it.row is Row.UNDOING or (it.row is Row.PENDING and it.is_live) for it in found)


def to_undo(undo: Dispatch, rows: Mapping[str, Known]) -> list[str]:
    """The actions that a compensation undoes: what ran, what is pending, and what is in doubt."""
    found = ((id, rows[id]) for id in undo.undoes if id in rows)
    return [id for id, it in found if it.row in (Row.RAN, Row.PENDING) or it.is_in_doubt]


def without(tasks: frozenset[Task], id: str, call: int) -> frozenset[Task]:
    """The tasks but that one."""
    return frozenset(task for task in tasks if task != (id, call))
