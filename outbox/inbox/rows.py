"""The values that the inbox decides on: rows, messages that arrive, and decisions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from outbox.contract import Void
from outbox.inbox.pending.pended import Pended
from outbox.messages import Command, Message, type_of
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope

VOID = str(type_of(Void))
"""The type of `Void`."""


class State(StrEnum):
    """The state of a row: what the inbox knows of its id."""

    RAN = "ran"
    """It took effect, or was answered for good without effect; the row holds the answer."""
    REFUSED = "refused"
    """Its handler refused it; the row holds the answer, and nothing changed."""
    BARRED = "barred"
    """It never ran and never will: its undo came first (`barred_by`), or it came expired."""
    UNDONE = "undone"
    """It ran, and the command `barred_by` undid it."""
    PENDING = "pending"
    """What its handler wrote is kept, or its call was begun, and the answer comes later."""
    UNDOING = "undoing"
    """It ran or is pending, and its undo `barred_by` is pending. Its copies are answered as if it
    were undone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the inbox. Without a stored reply, the answer is DONE without a value."""

    id: str
    state: State
    fingerprint: bytes | None
    reply: Reply | None
    barred_by: str | None
    saga: str | None = None
    pended: Pended | None = None
    """What is kept beside a row that is, or was, pending."""

    @property
    def may_be_in_effect(self) -> bool:
        """Whether its undo has something to do: it ran, is pending, or was barred while its call
        was in doubt."""
        is_barred = self.state is State.BARRED
        return self.state in (State.RAN, State.PENDING) or (is_barred and self.is_in_doubt)

    @property
    def is_in_doubt(self) -> bool:
        """Whether its answer says that it is not known what became of it."""
        return self.reply is not None and self.reply.outcome is Outcome.UNKNOWN

    @property
    def success(self) -> Reply | None:
        """The success of its call that was known before its undo began, and that `after` could not
        write. An undo that is pending keeps it as the reply, where it found it."""
        if self.pended is None:
            return None
        known = self.reply if self.state is State.UNDOING else self.pended.late_reply
        return known if known is not None and known.outcome is Outcome.DONE else None

    @property
    def is_over_once_undone(self) -> bool:
        """Whether what is kept beside it is kept no longer once it is undone. That of a call stays
        where its success may still come."""
        return self.pended is not None and (not self.pended.is_call or self.success is not None)

    @property
    def found_as(self) -> str:
        """How its undo finds it, in a word for the compensation."""
        if self.success is not None:
            return "ran"
        if self.is_in_doubt:
            return "in-doubt"
        if self.pended is None or self.state is State.RAN:
            return "ran"
        return "in-doubt" if self.pended.is_call else "pending"


@dataclass(frozen=True, slots=True)
class Change:
    """The new content of a row."""

    id: str
    state: State
    reply: Reply | None
    barred_by: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A readable message that has a handler here. `saga` is set for a saga's command."""

    envelope: Envelope
    message: Message
    fingerprint: bytes
    saga: str | None

    @property
    def saga_number(self) -> str | None:
        """The number of its saga, which tells the saga's age."""
        return None if self.saga is None else self.envelope.run_number or self.saga

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the commands that it undoes, or lets never run."""
        if isinstance(self.message, Void):
            return tuple(self.message.ids)
        return self.envelope.undoes

    @property
    def is_alone(self) -> bool:
        """Whether it is a command that belongs to no saga."""
        return self.saga is None and isinstance(self.message, Command)


@dataclass(frozen=True, slots=True)
class Claim:
    """A row to insert, before anything is known. `due` is the message's own; that of an action
    which its undo bars is unknown."""

    id: str
    state: State
    fingerprint: bytes | None
    barred_by: str | None
    source: str
    saga: str | None
    saga_number: str | None = None
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The decision to answer without running the handler. `reply` is the answer; `changes`,
    `forget` (rows to delete, which this transaction inserted) and `over` (ids that are pending no
    longer) remain to be written, and `told` to be sent: answers to other commands."""

    reply: Reply
    changes: tuple[Change, ...] = ()
    forget: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    told: tuple[tuple[Pended, Reply], ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """The decision to run the handler. `undoes` are the rows of the actions that it undoes."""

    undoes: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """The decision about a command whose call to the outside is over: it may be made again.
    `undoes` are the rows of the actions that are undoing because of it."""

    pended: Pended
    undoes: tuple[Row, ...]
    forget: tuple[str, ...]


Verdict = Answer | Run | Again

DONE = Reply(Outcome.DONE)
