"""The barrier: whether a message that arrives is run, or answered without running it.

Pure: from the rows that the inbox found, and the message, to an answer or a run of the handler. It
rests on two facts. First, a transaction inserts the message's row before it looks at anything, so
the one that inserted it may act, and every other one finds it. Second, an undo inserts the ids of
the actions that it undoes as `barred`: where that insert won, the action never ran and never will.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from outbox.contract import Void
from outbox.inbox.pending.pended import Pended
from outbox.inbox.retention import Forgotten
from outbox.messages import Command, Message, type_of
from outbox.replies import PENDING, Outcome, Reply
from outbox.wire import reply_json
from outbox.wire.envelope import Envelope

_UNDO_TAKES = 60.0
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
    def found_as(self) -> str:
        """How its undo finds it, in a word for the compensation."""
        if self.reply is not None and self.reply.outcome is Outcome.UNKNOWN:
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
    longer) remain to be written."""

    reply: Reply
    changes: tuple[Change, ...] = ()
    forget: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


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


def claims(arrivals: Iterable[Arrival]) -> list[Claim]:
    """The rows that these messages insert, in the order of every transaction: two that insert the
    same ids crosswise would deadlock."""
    rows: list[Claim] = []
    for each in arrivals:
        envelope = each.envelope
        whose = envelope.source, each.saga, envelope.run_number if each.saga else None
        rows.append(Claim(envelope.id, State.RAN, each.fingerprint, None, *whose, envelope.due))
        rows += [Claim(named, State.BARRED, None, envelope.id, *whose) for named in each.names]
    return sorted(rows, key=lambda row: row.id)


def decide(
    arrival: Arrival, found: Mapping[str, Row], forgotten: Forgotten, now: datetime
) -> Verdict:
    """The decision about a message. `found` holds its rows that were there before; the others have
    just been inserted. `forgotten` was read after that insert."""
    envelope = arrival.envelope
    own = found.get(envelope.id)
    barred_now = [named for named in arrival.names if named not in found]
    if own is not None:
        # A repeated undo bars nothing new: the first one barred or undid every action, or refused
        # to judge it.
        return _known(own, arrival, found, tuple(barred_now))
    source, saga = envelope.source, arrival.saga_number
    unsure = [action for action in barred_now if forgotten.covers(action, source, saga)]
    is_barred = arrival.is_alone and forgotten.may_bar(envelope.id)
    if is_barred or forgotten.covers(envelope.id, source, saga, envelope.due):
        # Not stored: a row would let a later undo conclude that this never ran.
        return Answer(_too_old(envelope), forget=(envelope.id, *unsure))
    if not arrival.names:
        return _decide_action(envelope, now)
    if unsure:
        return _settle(envelope, _unknown(unsure), forget=tuple(unsure))
    rows = [row for row in map(found.get, arrival.names) if row is not None]
    ran = [row for row in rows if row.state in (State.RAN, State.PENDING)]
    if foreign := [row for row in ran if _is_of_another(row, arrival.saga)]:
        # Not stored, and nothing is barred: the undo is a mistake of its sender.
        return Answer(_not_its_own(foreign[0]), forget=(envelope.id, *barred_now))
    if (wait := _must_wait(rows)) is not None:
        return Answer(wait, forget=(envelope.id, *barred_now))
    if isinstance(arrival.message, Void):
        return _void(arrival, found)
    if ran:
        return Run(tuple(ran))
    return _settle(envelope, _nothing_to_undo(found, envelope))


def conclude(arrival: Arrival, run: Run, reply: Reply) -> tuple[Change, ...]:
    """The changes to write after the handler answered `reply`, which is DONE, REFUSED or, where its
    answer comes later, PENDING."""
    id = arrival.envelope.id
    if reply.is_pending:
        undoing = [Change(row.id, State.UNDOING, row.reply, id) for row in run.undoes]
        return (Change(id, State.PENDING, None), *undoing)
    match reply.outcome:
        case Outcome.DONE:
            own = () if reply == DONE else (Change(id, State.RAN, reply),)
            return own + tuple(Change(row.id, State.UNDONE, row.reply, id) for row in run.undoes)
        case Outcome.REFUSED:
            # A refused compensation leaves its action as it is: it ran.
            return (Change(id, State.REFUSED, reply),)
        case outcome:
            raise ValueError(f"{outcome} is never stored: the transaction is rolled back")


def over(run: Run, reply: Reply) -> tuple[str, ...]:
    """The ids that are pending no longer after a handler answered `reply`. A call stays known,
    since its success may still come."""
    if reply.outcome is not Outcome.DONE:
        return ()
    return tuple(row.id for row in run.undoes if row.pended is not None and not row.pended.is_call)


def _known(
    own: Row, arrival: Arrival, found: Mapping[str, Row], forget: tuple[str, ...]
) -> Answer | Again:
    reply = _stored(own, arrival)
    if reply.is_pending and own.pended is not None and own.pended.is_over:
        rows = [row for row in map(found.get, arrival.names) if row is not None]
        undoes = [it for it in rows if it.state is State.UNDOING and it.barred_by == own.id]
        return Again(own.pended, tuple(undoes), forget)
    return Answer(reply, forget=forget)


def _stored(row: Row, arrival: Arrival) -> Reply:
    match row.state:
        case State.RAN | State.REFUSED | State.PENDING if row.fingerprint != arrival.fingerprint:
            return _conflict(f"the id {row.id} was used before for a message with another content")
        case State.RAN | State.REFUSED | State.PENDING if row.saga != arrival.saga:
            # A saga that took this answer for its own would count on an effect that another saga
            # may undo.
            before, now = _saga(row.saga), _saga(arrival.saga)
            return _conflict(f"the id {row.id} was used before {before}, and came now {now}")
        case State.RAN | State.REFUSED:
            return row.reply or DONE
        case State.PENDING:
            return _COMPLETED if row.pended is None else row.pended.reply()
        case State.BARRED | State.UNDONE | State.UNDOING:
            return row.reply if row.state is State.BARRED and row.reply else _already_undone(row)
        case other:
            assert_never(other)


def _decide_action(envelope: Envelope, now: datetime) -> Verdict:
    if envelope.expires is None:
        return Run()
    if envelope.expires_in is not None:
        # The sender's word on the time that was left needs no clock but its own.
        expired = envelope.expires_in <= 0
        when = "it was sent"
    else:
        expired = envelope.expires <= now
        when = f"it came, at {now.isoformat()} by the clock of its receiver,"
    if not expired:
        return Run()
    reason = f"{when} after its expiry at {envelope.expires.isoformat()}, and never ran"
    reply = Reply(Outcome.EXPIRED, code="expired", reason=reason)
    return Answer(reply, (Change(envelope.id, State.BARRED, reply),))


def _must_wait(rows: Sequence[Row]) -> Reply | None:
    """The answer where one of these can be neither undone nor barred yet. Nothing is kept of what
    asks for that, so it is told when to come again."""
    for row in rows:
        if row.state is State.UNDOING:
            reason = f"the command {row.barred_by} undoes {row.id}, and its answer comes later"
            seconds = _UNDO_TAKES
        elif row.state is State.PENDING and row.pended is not None and row.pended.is_live:
            reason = f"{row.id} is calling the outside, which may take until {row.pended.until}"
            seconds = row.pended.rest.total_seconds()
        else:
            continue
        return Reply(Outcome.ONGOING, code=PENDING, reason=reason, retry_after=seconds)
    return None


def _void(arrival: Arrival, found: Mapping[str, Row]) -> Answer:
    """What became of the commands that are to run no more. Those that are pending are over."""
    envelope = arrival.envelope
    rows = [row for row in map(found.get, arrival.names) if row is not None]
    pending = [row for row in rows if row.state is State.PENDING]
    value = {named: _told(found.get(named)) for named in arrival.names}
    reply = Reply(Outcome.DONE, value=value)
    barred = tuple(Change(row.id, State.BARRED, None, envelope.id) for row in pending)
    answer = _settle(envelope, reply)
    done_with = [row.id for row in pending if row.pended is not None and not row.pended.is_call]
    return Answer(reply, answer.changes + barred, over=tuple(done_with))


def _told(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {"state": "absent"}
    if row.state is State.RAN:
        return {"state": row.state.value, "reply": reply_json.value_of(row.reply or DONE)}
    return {"state": row.state.value}


def _settle(envelope: Envelope, reply: Reply, forget: tuple[str, ...] = ()) -> Answer:
    return Answer(reply, (Change(envelope.id, State.RAN, reply),), forget)


def _conflict(reason: str) -> Reply:
    return Reply(Outcome.REJECTED, code="conflict", reason=reason)


def _saga(saga: str | None) -> str:
    return "outside of any saga" if saga is None else f"in the saga {saga}"


def _is_of_another(row: Row, saga: str | None) -> bool:
    # One of the two may belong to no saga: an operator may undo what a saga did.
    return None not in (row.saga, saga) and row.saga != saga


def _not_its_own(row: Row) -> Reply:
    return _conflict(f"{row.id} ran {_saga(row.saga)}, and only that one may undo it")


def _already_undone(row: Row) -> Reply:
    return Reply(
        Outcome.ALREADY_UNDONE,
        code="already-undone",
        reason=f"the command {row.barred_by} undid it",
    )


def _nothing_to_undo(found: Mapping[str, Row], envelope: Envelope) -> Reply:
    states = sorted({row.state for row in map(found.get, envelope.undoes) if row is not None})
    reason = f"what it undoes was {' or '.join(states)} before" if states else "it never ran"
    return Reply(Outcome.NOTHING_TO_UNDO, code="nothing-to-undo", reason=reason)


_COMPLETED = Reply(Outcome.ONGOING, code="ongoing", reason="it is being completed just now")


def _unknown(unsure: Sequence[str]) -> Reply:
    return Reply(
        Outcome.UNKNOWN,
        code="unknown",
        reason=f"{unsure[0]} is older than what the inbox remembers; whether it ran is not known",
    )


def _too_old(envelope: Envelope) -> Reply:
    if envelope.undoes or envelope.type == VOID:
        return _unknown((envelope.id,))
    return Reply(
        Outcome.TOO_OLD,
        code="too-old",
        reason="it is older than what the inbox remembers; it may have run, so it does not run now",
    )
