"""`outbox.add(session, message)`: a message that leaves if and only if the transaction commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from outbox import tracing
from outbox.adding import own_starts, session_events
from outbox.adding.causes import AnySession, cause_of
from outbox.adding.insert import write
from outbox.adding.installation import Installation, destination, installation_of, ring_after
from outbox.adding.staging import Row, Staged
from outbox.contract import StartSaga
from outbox.errors import InvalidMessage, NotInTransaction, OutboxError
from outbox.ids import is_id
from outbox.lanes import Lane, bucket_of
from outbox.messages import Message, type_of
from outbox.wire import codec
from outbox.wire.envelope import Envelope
from outbox.wire.outbox_row import to_row


def add(
    session: AnySession | Connection,
    message: Message,
    *,
    to: str | None = None,
    id: str | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    reply_to: str | None = None,
    undoes: Sequence[str] = (),
    expires: datetime | None = None,
    deliver_at: datetime | None = None,
    lane: Lane = Lane.NORMAL,
) -> str:
    """Send `message` if and only if the transaction of `session` commits. Returns its id.

    The message is encoded at once, so that a wrong one fails here, and a later change of it has no
    effect. On a session nothing is sent to the database before the commit; a rollback, also to a
    savepoint, takes the message along. On a Core connection it is inserted at once.

    A command goes to the service that owns its type, an event to each destination of its route;
    `to` names one destination instead. `deliver_at` keeps it back until then, outside of the order
    of its key; a start of a saga has `begin_at` for that. `reply_to` says that an answer is
    awaited; it is this service's own name, since receivers reject another one. Times must be aware.

    Raises NotInTransaction, OutboxNotInstalled, AutocommitRefused, UnconfiguredSQLite, Unrouted,
    InvalidMessage, MessageTooLarge.
    """
    target = _resolved(session)
    installation = installation_of(target)
    if not target.in_transaction() or (isinstance(target, Session) and not target.is_active):
        raise NotInTransaction(_opening(session))
    lane = Lane(lane)
    if isinstance(message, StartSaga):
        _check_start(message, deliver_at)
    cause, inherited = cause_of(target, causation)
    id = installation.ids() if id is None else _id("id", id)
    message_type = str(type_of(message))
    saga = _optional_id("correlation", correlation, cause.correlation if cause else None)
    now = installation.clock.now()
    later = None if deliver_at is None else _utc("deliver_at", deliver_at)
    envelope = Envelope(
        id=id,
        source=installation.source,
        type=message_type,
        key=message.message_key,
        time=now,
        data=codec.encode(message, limit=installation.max_bytes),
        correlation=saga,
        causation=_optional_id("causation", causation, cause.id if cause else None),
        trace=tracing.of_new_message(id, message_type, inherited, saga=saga),
        reply_to=None if reply_to is None else _own(reply_to, installation.source),
        undoes=tuple(_id("undoes", each) for each in undoes),
        expires=None if expires is None else _utc("expires", expires),
        due=now if later is None else later,
    )
    staged = Staged(
        message_class=type(message),
        data=envelope.data,
        rows=[_row(envelope, name, lane, later) for name in installation.destinations(message, to)],
        order=f"{lane:d}:{envelope.key}" if later is None else None,
    )
    _keep(target, staged, installation)
    if isinstance(message, StartSaga) and isinstance(target, Session):
        _note_start(message.instance_id, target)
    return envelope.id


def _note_start(run: str, session: Session) -> None:
    staging = session_events.staging_of(session)
    if staging is not None:
        own_starts.note(run, staging)


def _opening(session: AnySession | Connection) -> str:
    match session:
        case Connection():
            return "with engine.begin() as connection:"
        case AsyncSession() | async_scoped_session():
            return "async with sessions.begin() as session:"
        case _:
            return "with sessions.begin() as session:"


def _check_start(start: StartSaga, deliver_at: datetime | None) -> None:
    if not is_id(start.instance_id):
        raise InvalidMessage(
            f"a saga cannot run under the id {start.instance_id!r:.80}",
            next_step="give a UUIDv7 as text, as outbox.Ids and Service.new_id make them",
        )
    if deliver_at is not None:
        raise InvalidMessage(
            "a start of a saga is not kept back by deliver_at: until then no list would show it, "
            "and no cancel would find it",
            next_step="give the time as begin_at, to Service.start or StartSaga",
        )


def _keep(target: Session | Connection, staged: Staged, installation: Installation) -> None:
    match target:
        case Session():
            session_events.stage(
                target,
                staged,
                tables=installation.tables,
                ordered=installation.ordered,
                bell=installation.bell,
            )
        case Connection():
            write(target, installation.tables, [staged], ordered=installation.ordered)
            ring_after(target, installation.bell)


def _row(envelope: Envelope, to: str, lane: Lane, later: datetime | None) -> Row:
    row = to_row(envelope, to, bucket_of(lane, envelope.key))
    if later is not None:
        row["due_at"] = later
    return row


def _resolved(target: Any) -> Session | Connection:
    match target:
        case AsyncSession():
            return target.sync_session
        case Session() | Connection():
            return target
        case scoped_session() | async_scoped_session():
            return _resolved(target())
        case AsyncConnection():
            raise OutboxError(
                "outbox.add() was given an AsyncConnection, and must insert at once, which it "
                "cannot await",
                next_step="call it on the synchronous side: "
                "await connection.run_sync(lambda c: outbox.add(c, message))",
            )
        case _:
            raise OutboxError(
                f"outbox.add() was given a {type(target).__name__} in place of a session",
                next_step="pass the Session, AsyncSession or Connection whose transaction the "
                "message belongs to",
            )


def _optional_id(name: str, given: str | None, inherited: str | None) -> str | None:
    return inherited if given is None else _id(name, given)


def _id(name: str, given: object) -> str:
    if not isinstance(given, str) or not is_id(given):
        raise InvalidMessage(
            f"{name}={given!r} is not the id of a message",
            next_step="pass an id that outbox.add() returned, or outbox.ids made",
        )
    return given


def _own(reply_to: str, source: str) -> str:
    if destination(reply_to) != source:
        raise InvalidMessage(
            f"the answer is to go to {reply_to!r}, and this service is {source!r}: receivers "
            "answer the sender alone, and reject a message that asks for anything else",
            next_step=f"pass reply_to={source!r}, or leave it out",
        )
    return reply_to


def _utc(name: str, given: datetime) -> datetime:
    if given.utcoffset() is None:
        raise InvalidMessage(
            f"{name}={given!r} has no time zone", next_step="pass an aware datetime"
        )
    return given.astimezone(UTC)
