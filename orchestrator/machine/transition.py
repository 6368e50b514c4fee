"""Transitions: the values that `start` and `advance` return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from orchestrator.machine.instance import Instance
from orchestrator.machine.signals import TimerKind
from outbox.contract import Void
from outbox.replacing import quick

S = TypeVar("S")


@quick
@dataclass(frozen=True, slots=True)
class Dispatch:
    """A command to be sent. It is added to the outbox unless it is still there.

    `urgent` is for undo and post-pivot commands, which have a lane of their own. `expires` is set
    only where the command may be given up. `due` is the same each time it is sent.
    """

    id: str
    step: str
    participant: str
    type: str
    key: str
    data: bytes
    undoes: tuple[str, ...]
    urgent: bool
    expires: datetime | None
    due: datetime | None = None

    @property
    def is_void(self) -> bool:
        """Whether it asks what became of commands that were sent before."""
        return self.type == str(Void.message_type)


@quick
@dataclass(frozen=True, slots=True)
class Timer:
    """A durable timer to be set. It guards one command, and there is at most one of a kind for it:
    setting it again moves it. That of a begin has the run's id in place of a command's."""

    kind: TimerKind
    command_id: str
    due: datetime


class Happening(StrEnum):
    """The kind of a history entry."""

    SCHEDULED = "scheduled"
    """The run is to begin later."""
    STARTED = "started"
    """The run began."""
    SENT = "sent"
    """A new command."""
    REPEATED = "repeated"
    """The same command once more."""
    ANSWERED = "answered"
    """An answer that was awaited."""
    LATE_ANSWER = "late-answer"
    """An answer that no step awaited, a duplicate mostly."""
    STRAY_EFFECT = "stray-effect"
    """An action took effect that the run can neither undo nor account for."""
    REJECTED_ANSWER = "rejected-answer"
    """An answer from another participant than the command went to. It does not count."""
    OVERDUE = "overdue"
    """No definite answer by the deadline."""
    BURIED = "buried"
    """A command was given up, by the relay or by a broker's consumer."""
    TURNED_BACK = "turned-back"
    """From here on the run is undone."""
    STUCK = "stuck"
    """A step needs an operator."""
    OPERATOR = "operator"
    """An operator stepped in."""
    ENDED = "ended"
    """The final status."""


@quick
@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a run's history. `actor` is set where an operator acted, with the reason in
    `detail`."""

    at: datetime
    happening: Happening
    detail: str
    step: str | None = None
    command_id: str | None = None
    actor: str | None = None


@quick
@dataclass(frozen=True, slots=True)
class Transition(Generic[S]):
    """The transition that one signal led to; it is kept as a whole or not at all.

    `withdrawn` are command ids whose messages must not leave any more: their rows are removed from
    the outbox, wherever they stand, before `commands` are added.
    """

    instance: Instance[S]
    commands: tuple[Dispatch, ...] = ()
    timers: tuple[Timer, ...] = ()
    withdrawn: tuple[str, ...] = ()
    history: tuple[Entry, ...] = ()
