"""The ground on which the transactions of an inbox run, by the kind of its sessions."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from outbox import sqlite
from outbox.database.cutting import can_be_cut
from outbox.errors import InvalidHandlers
from outbox.inbox.handler_times import HandlerTimes
from outbox.inbox.handlers import Handlers
from outbox.inbox.limits import InboxLimits
from outbox.inbox.transactions.in_threads import InThreads, refuse_async
from outbox.inbox.transactions.on_loop import OnLoop, refuse_plain
from outbox.inbox.transactions.session import watch

Sessions = async_sessionmaker[AsyncSession] | sessionmaker[Session]


def engine_of(sessions: Sessions) -> Engine:
    """The engine behind them. Raises UnconfiguredSQLite."""
    session = sessions()
    inner = session.sync_session if isinstance(session, AsyncSession) else session
    bind = inner.get_bind()
    sqlite.require(bind.engine)
    return bind.engine


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
