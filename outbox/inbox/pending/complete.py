"""`complete`, the answer to a pending command in the transaction of the code that knows it, and
`drop`, the end of waiting for one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from outbox.adding.causes import is_cause
from outbox.adding.installation import tables_of
from outbox.adding.session_events import hold_an_answer
from outbox.crashpoints import crashpoint
from outbox.errors import (
    AlreadyAnswered,
    CallUnderWay,
    InvalidMessage,
    IsolationRefused,
    NotInTransaction,
    NotPendingYet,
    TooLate,
)
from outbox.ids import is_id
from outbox.inbox.answering import add_reply, has_way, require_way
from outbox.inbox.handlers import Handlers
from outbox.inbox.handling.results import reply_of
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.pending.completion import Completion, completed
from outbox.inbox.pending.pended import Pended
from outbox.inbox.rows import DONE, Row, State
from outbox.inbox.transactions import session as inbox_session
from outbox.inbox.transactions import store
from outbox.inbox.transactions.claiming import isolation_of
from outbox.inbox.transactions.session import READ_COMMITTED
from outbox.messages import Command, reply_type
from outbox.replies import Done, Outcome, Reply
from outbox.wire.codec import decode_value

Telling = Callable[[Session, Pended, Reply], None]
"""A way on which answers go in the transaction of the session, in place of messages."""
TELLING = "sagabox_telling"
"""The name of that way in the `info` of a sessionmaker, for an inbox beside its sender's tables."""

DROPPED = "dropped"
"""The code of the answer to a command that a person waits for no longer."""


@dataclass(frozen=True, slots=True)
class FromJson:
    """An answer that is a command's own value, as JSON has it."""

    value: Any


def complete(
    session: Session, handlers: Handlers, answers: Mapping[str, object], now: datetime
) -> None:
    """Answer pending commands, by their ids, if the session's transaction commits. An answer is the
    command's own value, Done, FromJson or Refused. Ids are locked here and now, in one order: so a
    caller that has several gives them at once, and before it locks rows of its own.

    The same answer again changes nothing. Raises, before anything is written and so that the
    transaction can go on: NotPendingYet, TooLate, AlreadyAnswered, CallUnderWay; InvalidMessage
    where the answer is not what the command promises, or the id is that of a command which is
    handled just now; Unrouted where there is no way to the sender; NotInTransaction;
    IsolationRefused above READ COMMITTED. The commit raises SeveralDatabases where the session
    wrote to a second database.
    """
    _check(session, answers, used_by="complete()")
    found = lock_with_actions(session, handlers.consumer, list(answers), now)
    open_ones: list[tuple[Pended, Reply]] = []
    for id in answers:
        row = found.get(id)
        pended = _pended(id, row)
        if pended is not None:
            reply = _reply(handlers, pended.type, answers[id])
            require_way(session, pended.reply_to)
            open_ones.append((pended, reply))
        elif row is not None:
            answer = answers[id]
            _compare(row, reply_of(answer.value if isinstance(answer, FromJson) else answer))
    for pended, reply in open_ones:
        undoing = undoing_of(found, pended)
        write(session, handlers.consumer, completed(pended, reply, undoing, is_definite=False))


def drop(session: Session, consumer: str, id: str, reason: str, now: datetime) -> None:
    """Wait no longer for the answer to a pending command: it is UNKNOWN, with that reason, if the
    session's transaction commits. What is undoing because of it becomes what it was.

    Once more, it changes nothing. Raises as `complete`, but not where there is no way to the
    sender: that one may be gone for ever, and otherwise asks again.
    """
    _check(session, [id], used_by="drop()")
    found = lock_with_actions(session, consumer, [id], now)
    row = found.get(id)
    pended = _pended(id, row)
    reply = Reply(Outcome.UNKNOWN, code=DROPPED, reason=reason)
    if pended is not None:
        completion = completed(pended, reply, undoing_of(found, pended), is_definite=False)
        reached = [it for it in completion.told if has_way(session, it[0].reply_to)]
        write(session, consumer, replace(completion, told=tuple(reached)))
    elif row is not None:
        _compare(row, reply)


def write(session: Session, consumer: str, completion: Completion) -> None:
    """Write what a completion leads to, and tell the senders. The rows are locked."""
    hold_an_answer(session, tables_of(session))
    store.write(session, consumer, completion.changes)
    pending_rows.remove(session, consumer, completion.over)
    for pended, reply in completion.told:
        tell(session, pended, reply)
    crashpoint("inbox: completed, before commit")


def tell(session: Session, pended: Pended, reply: Reply) -> None:
    """Send the answer to the command's sender, if it awaits one."""
    if pended.reply_to is not None and pended.saga is not None:
        telling: Telling | None = session.info.get(TELLING)
        if telling is not None:
            telling(session, pended, reply)
            return
        add_reply(
            session,
            reply,
            command_id=pended.id,
            saga=pended.saga,
            reply_to=pended.reply_to,
            trace=pended.trace,
        )


def lock_with_actions(
    session: Session, consumer: str, ids: Collection[str], now: datetime
) -> dict[str, Row]:
    """The rows with those ids, and those that are undoing because of them, all locked."""
    rows: dict[str, Row] = {}
    known = pending_rows.read(session, consumer, ids, now)
    while missing := {*ids, *(it for each in known.values() for it in each.undoes)} - rows.keys():
        found = store.read(session, consumer, missing, lock=True)
        if not found:
            break
        rows |= found
        # Once more: what was read before the lock may have changed, or not have been there yet.
        known = pending_rows.read(session, consumer, list(rows), now)
    return {id: replace(row, pended=known.get(id)) for id, row in rows.items()}


def _check(session: Session, ids: Collection[object], *, used_by: str) -> None:
    if not session.in_transaction():
        raise NotInTransaction("with sessions.begin() as session:", used_by=used_by)
    for id in ids:
        _check_id(session, id)
    if ids and store.is_postgresql(session):
        level = isolation_of(session)
        if level != READ_COMMITTED:
            # A call is kept beside the row of its command: the lock on that row, which did not
            # change, lets an old look at the call pass.
            raise IsolationRefused.of_answer(level, used_by)


def _check_id(session: Session, id: object) -> None:
    if not isinstance(id, str) or not is_id(id):
        raise InvalidMessage(
            f"{id!r:.100} is not the id of a command",
            next_step="give the id that the handler got as context.id",
        )
    if inbox_session.is_in_hand(session, id) and not is_cause(session, id):
        # What becomes of it in this transaction is not decided yet.
        raise NotPendingYet(id)
    if is_cause(session, id):
        raise InvalidMessage(
            f"the command {id} is handled just now, in this very transaction",
            next_step="return its answer from the handler, or Pending and complete it later",
        )


def _pended(id: str, row: Row | None) -> Pended | None:
    """What is kept of it; None where it is answered already."""
    if row is None:
        raise NotPendingYet(id)
    match row.state:
        case State.UNDOING | State.UNDONE | State.BARRED:
            raise TooLate(id, row.state.value, row.barred_by)
        case State.RAN | State.REFUSED:
            return None
        case State.PENDING:
            if row.pended is None:
                raise NotPendingYet(id)
            if row.pended.is_live:
                raise CallUnderWay(id, row.pended.until)
            return row.pended


def _reply(handlers: Handlers, type: str, answer: object) -> Reply:
    handler = handlers.find(type)
    cls = None if handler is None else handler.message_class
    tp = reply_type(cls) if cls is not None and issubclass(cls, Command) else Any
    if isinstance(answer, FromJson):
        if handler is None:
            raise InvalidMessage(
                f"{handlers.consumer} has no handler for {type} here, which says what its value is",
                next_step="complete it where the code of the service is",
            )
        answer = Done(decode_value(tp, answer.value))
    reply = reply_of(answer, tp)
    if reply.outcome not in (Outcome.DONE, Outcome.REFUSED):
        raise InvalidMessage(
            f"{reply.outcome.value} ends nothing, and the command would be pending as before",
            next_step="complete it with the command's value, outbox.Done or outbox.Refused",
        )
    return reply


def undoing_of(found: Mapping[str, Row], pended: Pended) -> list[Row]:
    """The actions that are undoing because of it."""
    rows = [row for row in map(found.get, pended.undoes) if row is not None]
    return [row for row in rows if row.state is State.UNDOING and row.barred_by == pended.id]


def _compare(row: Row, reply: Reply) -> None:
    known = row.reply or DONE
    if (known.outcome, known.value, known.code) != (reply.outcome, reply.value, reply.code):
        raise AlreadyAnswered(row.id, known.outcome.value)
