"""The ground on which the transactions of an inbox run, by the kind of its sessions."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from outbox import sqlite
from outbox.adding.insert import refuse_autocommit
from outbox.adding.installation import tables_of
from outbox.database.cutting import can_be_cut
from outbox.errors import InvalidHandlers, InvalidService
from outbox.inbox.handler_times import HandlerTimes
from outbox.inbox.handlers import Handlers
from outbox.inbox.limits import InboxLimits
from outbox.inbox.transactions.claiming import isolation_of
from outbox.inbox.transactions.in_threads import InThreads, refuse_async
from outbox.inbox.transactions.on_loop import OnLoop, refuse_plain
from outbox.inbox.transactions.session import require_read_committed, watch

Sessions = async_sessionmaker[AsyncSession] | sessionmaker[Session]


def engine_of(sessions: Sessions) -> Engine:
    """The engine behind them, which has the library's tables. Raises UnconfiguredSQLite, and
    InvalidService where there is none, or those tables are bound to another one."""
    session = sessions()
    inner = session.sync_session if isinstance(session, AsyncSession) else session
    try:
        engine = inner.get_bind().engine
    except UnboundExecutionError as error:
        raise InvalidService(
            "the sessions have no engine of their own, only those of single tables, so that it is "
            "not known where the library's tables are",
            next_step="give the sessionmaker the engine that has them, beside its binds: "
            "sessionmaker(engine, binds=...)",
        ) from error
    if inner.get_bind(clause=select(tables_of(inner).inbox)).engine is not engine:
        raise InvalidService(
            "the library's tables are bound to another engine than the sessions themselves",
            next_step="give the sessionmaker the engine that has them, and bind other tables",
        )
    sqlite.require(engine)
    return engine


def check_ground(session: Session) -> None:
    """Raises AutocommitRefused or IsolationRefused where the session's transactions are such that
    no message can be handled in them. For PostgreSQL."""
    refuse_autocommit(session.connection(), used_by="the inbox")
    require_read_committed(isolation_of(session))


def runner_for(sessions: Sessions, *, commit_within: float) -> OnLoop | InThreads:
    """The runner of these sessions. Raises InvalidHandlers where their driver cannot be used."""
    engine = engine_of(sessions)
    watch(engine)
    if not isinstance(sessions, sessionmaker):
        return OnLoop(sessions, commit_within=commit_within)
    if not can_be_cut(engine.dialect):
        raise InvalidHandlers(
            f"the driver {engine.dialect.driver} gives no way to end the transaction of a handler "
            "that takes too long",
            next_step="use psycopg (postgresql+psycopg://) or psycopg2",
        )
    return InThreads(sessions)


def hold_to(handlers: Handlers, sessions: Sessions, limits: InboxLimits) -> HandlerTimes:
    """The time that each handler may take in these sessions. Raises InvalidHandlers for each one,
    now or later, that may not take so long there, or cannot run there."""
    times = HandlerTimes.on(engine_of(sessions), limits)
    handlers.restrict(refuse_async if isinstance(sessions, sessionmaker) else refuse_plain)
    handlers.restrict(times.check)
    return times
