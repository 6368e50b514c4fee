"""What is taken from SQLAlchemy without its promise that it stays: names that are private, or that
its manual does not have.

A release of SQLAlchemy may rename or drop each of them, also between two minor versions. Whatever
needs one takes it from here, so that `tests/unit/outbox/database/test_sqlalchemy_internals.py` can
say what stops working when it has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import getclosurevars
from typing import Any

from sqlalchemy import Connection, Dialect, Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import Pool, QueuePool
from sqlalchemy.util.concurrency import in_greenlet

try:
    from sqlalchemy.util import await_
except ImportError:  # its name in 2.0
    from sqlalchemy.util import await_only as await_

__all__ = [
    "OptionEngine",
    "await_",
    "connections_of",
    "given_connect_args",
    "in_greenlet",
    "level_at_connect",
    "most_connections",
    "next_savepoint",
    "prepares",
    "session_options",
]


def next_savepoint(connection: Connection) -> str:
    """The name that the connection's next savepoint gets, if the caller gives it none.

    The event comes before the savepoint has its name, and nothing public tells it later.
    """
    number: int = connection._Connection__savepoint_seq  # type: ignore[attr-defined]  # is private
    return f"sa_savepoint_{number + 1}"


def connections_of(transaction: SessionTransaction) -> Collection[Connection]:
    """The connections that take part in the transaction of a session."""
    if hasattr(transaction, "connections"):
        return tuple(transaction.connections)
    # In 2.0 each stands there twice: by itself, and by its engine.
    return {it[0] for it in transaction._connections.values()}


def session_options(session: Session) -> Mapping[str, object]:
    """The execution options that the session was given; in 2.0 it can be given none."""
    options: Mapping[str, object] = getattr(session, "execution_options", {})
    return options


def level_at_connect(dialect: Dialect) -> str | None:
    """The `isolation_level` that `create_engine` was given; it stands nowhere else."""
    level: str | None = dialect._on_connect_isolation_level
    return level


def given_connect_args(engine: Engine) -> Mapping[str, object] | None:
    """The `connect_args` that `create_engine` was given; None where it was given a `creator`."""
    creator = engine.pool._creator
    if getattr(creator, "__qualname__", "") != "create_engine.<locals>.connect":
        return None
    used: Mapping[str, object] = getclosurevars(creator).nonlocals["cparams"]
    by_url = engine.dialect.create_connect_args(engine.url)[1]
    return {name: value for name, value in used.items() if by_url.get(name) != value}


def prepares(driver: str, connection: DBAPIConnection) -> bool:
    """Whether a connection prepares statements for later transactions."""
    adapted: Any = connection
    if driver == "asyncpg":
        return adapted._prepared_statement_cache is not None
    raw = getattr(adapted, "driver_connection", adapted)
    return driver == "psycopg" and raw.prepare_threshold is not None


def most_connections(pool: Pool) -> int:
    """The connections that the pool opens at most; 1 for a pool without a size."""
    if not isinstance(pool, QueuePool):
        return 1
    overflow: int = pool._max_overflow
    return pool.size() + max(0, overflow)
