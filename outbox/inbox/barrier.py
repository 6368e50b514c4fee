"""The barrier: whether a message that arrives is run, or answered without running it.

Pure: from the rows that the inbox found, and the message, to an answer or a run of the handler. It
rests on two facts. First, a transaction inserts the message's row before it looks at anything, so
the one that inserted it may act, and every other one finds it. Second, an undo inserts the ids of
the actions that it undoes as `barred`: where that insert won, the action never ran and never will.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import assert_never

from outbox.contract import Void
from outbox.inbox.pending.voiding import void
from outbox.inbox.retention import Forgotten
from outbox.inbox.rows import (
    DONE,
    VOID,
    Again,
    Answer,
    Arrival,
    Change,
    Claim,
    Row,
    Run,
    State,
    Verdict,
)
from outbox.replies import PENDING, Outcome, Reply
from outbox.wire.envelope import Envelope

_UNDO_TAKES = 60.0


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
    ran = [row for row in rows if row.may_be_in_effect]
    if foreign := [row for row in ran if _is_of_another(row, arrival.saga)]:
        # Not stored, and nothing is barred: the undo is a mistake of its sender.
        return Answer(_not_its_own(foreign[0]), forget=(envelope.id, *barred_now))
    if (wait := _must_wait(rows)) is not None:
        return Answer(wait, forget=(envelope.id, *barred_now))
    if isinstance(arrival.message, Void):
        return void(arrival, found)
    if ran:
        return Run(tuple(ran))
    return _settle(envelope, _nothing_to_undo(found, envelope))


def conclude(arrival: Arrival, run: Run, reply: Reply) -> tuple[Change, ...]:
    """The changes to write after the handler answered `reply`, which is DONE, REFUSED or, where its
    answer comes later, PENDING."""
    id = arrival.envelope.id
    if reply.is_pending:
        undoing = [
            Change(row.id, State.UNDOING, row.success or row.reply, id) for row in run.undoes
        ]
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
    """The ids that are pending no longer after a handler answered `reply`."""
    if reply.outcome is not Outcome.DONE:
        return ()
    return tuple(row.id for row in run.undoes if row.is_over_once_undone)


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
            reason = f"{row.id} is calling the outside, and its time is not over"
            seconds = row.pended.rest.total_seconds()
        else:
            continue
        return Reply(Outcome.ONGOING, code=PENDING, reason=reason, retry_after=seconds)
    return None


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
