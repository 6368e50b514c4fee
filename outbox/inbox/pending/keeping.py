"""What a transaction of the inbox keeps of commands whose answers come later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from outbox.inbox.answering import has_way, require_way
from outbox.inbox.handling.context import CallTimes, Context
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.pending.complete import tell
from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import VOID, Arrival, Row, Run, State
from outbox.inbox.transactions import store
from outbox.replies import Reply
from outbox.wire.envelope import Envelope, moment_in

_OPEN = (State.PENDING, State.UNDOING)


class ExpectedTooLate(RuntimeError):
    """A handler expects its answer after the command has expired."""


def with_pended(
    session: Session, consumer: str, found: Mapping[str, Row], now: datetime
) -> dict[str, Row]:
    """The rows, with what is kept of those that are pending, are being undone, or are in doubt."""
    ids = [id for id, row in found.items() if row.state in _OPEN or row.is_in_doubt]
    kept = pending_rows.read(session, consumer, ids, now) if ids else {}
    return {id: replace(row, pended=kept[id]) if id in kept else row for id, row in found.items()}


def undone_by(
    session: Session,
    consumer: str,
    arrivals: Sequence[Arrival],
    found: Mapping[str, Row],
    now: datetime,
) -> dict[str, Row]:
    """The rows that are undoing because of pending undos which are to run no more, locked."""
    voided = [named for each in arrivals if each.envelope.type == VOID for named in each.names]
    pended = [row.pended for row in map(found.get, voided) if row is not None]
    ids = {action for it in pended if it is not None for action in it.undoes}
    if not ids:
        return {}
    return with_pended(session, consumer, store.read(session, consumer, ids, lock=True), now)


def tell_all(session: Session, told: Sequence[tuple[Pended, Reply]]) -> None:
    """Send these answers. Where there is no way, the sender asks again, and gets it then."""
    for pended, reply in told:
        if has_way(session, pended.reply_to):
            tell(session, pended, reply)


def pended_of(arrival: Arrival, run: Run, reply: Reply, now: datetime) -> Pended:
    """What is to be kept of a command whose handler gave that reply (as `reply_of` makes it)."""
    envelope = arrival.envelope
    return Pended(
        id=envelope.id,
        type=envelope.type,
        source=envelope.source,
        reply_to=envelope.reply_to,
        saga=arrival.saga,
        key=envelope.key,
        trace=envelope.trace,
        undoes=tuple(row.id for row in run.undoes),
        note=reply.reason or "",
        since=now,
        read_at=now,
        expected_at=None if reply.value is None else now + timedelta(seconds=reply.value),
    )


def keep(session: Session, consumer: str, pended: Sequence[Pended], over: Sequence[str]) -> None:
    """Write what is kept, and forget what is pending no longer."""
    if pended:
        pending_rows.add(session, consumer, pended)
    if over:
        pending_rows.remove(session, consumer, over)


def require_way_back(session: Session, arrival: Arrival, reply: Reply) -> None:
    """Raises Unrouted where an answer comes later, and there is no way on which its sender could
    be told: what takes effect after its undo would stay unknown to it."""
    if reply.is_pending:
        require_way(session, arrival.envelope.reply_to)


def require_in_time(arrival: Arrival, reply: Reply, now: datetime) -> None:
    """Raises ExpectedTooLate where a pending answer is expected after the command's expiry: its
    sender would have given it up by then."""
    expires = _expiry(arrival.envelope, now)
    if not reply.is_pending or reply.value is None or expires is None:
        return
    expected = now + timedelta(seconds=reply.value)
    if expected > expires:
        raise ExpectedTooLate(
            f"the answer is expected at {expected.isoformat()}, after the command expires at "
            f"{expires.isoformat()}; give the step a longer deadline, or expect it sooner"
        )


def _expiry(envelope: Envelope, now: datetime) -> datetime | None:
    if envelope.expires is None or envelope.expires_in is None:
        return envelope.expires
    # The sender's word on the time that was left needs no clock but the receiver's.
    return moment_in(now, envelope.expires_in)


def context_of(
    arrival: Arrival,
    undoes: Sequence[Row],
    attempt: int,
    before: Any = None,
    times: CallTimes | None = None,
) -> Context:
    """The context of that message for its handler. `undoes` are the rows that it undoes."""
    envelope = arrival.envelope
    return Context(
        id=envelope.id,
        correlation=envelope.correlation,
        causation=envelope.causation,
        attempt=attempt,
        source=envelope.source,
        trace=envelope.trace,
        undoes={row.id: row.found_as for row in undoes},
        before=before,
        times=times,
    )
