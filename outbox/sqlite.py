"""SQLite as a database that keeps its word: `outbox.sqlite.configure(engine)`.

SQLite as it comes loses updates, and with them messages. A configured engine

- keeps a write-ahead log that is flushed at every commit, so that a power cut takes back nothing;
- begins a transaction with BEGIN IMMEDIATE, so that no other transaction can change what it has
  read; a reader says `sqlite.READ_ONLY` instead, waits for no writer, and cannot write;
- lets the writers of one process wait in a queue, and those of other processes for up to
  `busy_timeout`;
- notices when SQLite has ended a transaction by itself (a full disk, an interrupt), and drops the
  connection, since everything after it would be committed statement by statement.

An in-memory database is refused: it has no write-ahead log, and all sessions share its one
connection, and so each other's transactions.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from outbox.database.shown_url import shown
from outbox.database.sqlalchemy_internals import OptionEngine, await_
from outbox.database.sqlite_connection import Guard, GuardedConnection, file_of
from outbox.database.write_queue import Ticket, TurnsByName, WriteQueue, begin_writing, is_writing
from outbox.errors import OutboxError, TransactionLost, UnconfiguredSQLite

READ_ONLY: Mapping[str, Any] = MappingProxyType(
    {"sagabox_readonly": True, "postgresql_readonly": True}
)
"""Execution options of a transaction that only reads, on either database: begin it with
`session.connection(execution_options=READ_ONLY)` or `connection.execution_options(**READ_ONLY)`."""

DEFAULT_BUSY_TIMEOUT = 5.0
"""Seconds that a writer waits, first for its turn within the process, then for other processes."""

_GUARD = "sagabox_guard"
_WAL_ATTEMPTS = 20

_configured: WeakKeyDictionary[Dialect, float] = WeakKeyDictionary()
"""Each with its busy timeout."""
_turns = TurnsByName()


def configure(engine: Engine | AsyncEngine, *, busy_timeout: float = DEFAULT_BUSY_TIMEOUT) -> None:
    """Make this SQLite engine safe; call it right after the engine was made. Without effect on
    other databases, and when called again.

    Raises OutboxError where the engine cannot be made safe: a database in memory, or an engine with
    its own way of connecting.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if target.dialect.name != "sqlite" or target.dialect in _configured:
        return
    if target.url.database in (None, "", ":memory:"):
        raise _in_memory(shown(target.url))
    if isinstance(target, OptionEngine):
        raise _unfit(target, "was derived by execution_options()", "configure the original engine")
    if target.dialect.skip_autocommit_rollback:
        raise _unfit(
            target,
            "has skip_autocommit_rollback=True, with which nothing would ever be rolled back",
            "leave that option out",
        )
    _Settings(target, busy_timeout)
    _configured[target.dialect] = busy_timeout


def is_configured(engine: Engine | AsyncEngine) -> bool:
    """Whether `configure` was called for this engine, or the one that it was derived from."""
    return engine.dialect in _configured


def busy_timeout(engine: Engine | AsyncEngine) -> float | None:
    """The seconds that writers of this engine wait; None where it is not a configured SQLite."""
    return _configured.get(engine.dialect)


def is_within_write(engine: Engine | AsyncEngine) -> bool:
    """Whether the code that asks is within a transaction that writes to the database of this
    engine, though another engine may have begun it. False on other databases than SQLite."""
    return engine.dialect in _configured and is_writing(_turns[file_of(engine.url)])


def require(engine: Engine | AsyncEngine) -> None:
    """Raises UnconfiguredSQLite where the engine is SQLite's and was not configured."""
    if engine.dialect.name == "sqlite" and engine.dialect not in _configured:
        raise UnconfiguredSQLite(shown(engine.url))


@dataclass(frozen=True)
class _Guarded:
    """Makes connections that the guard watches."""

    guard: Guard

    def __call__(self, *args: Any, **arguments: Any) -> GuardedConnection:
        connection = GuardedConnection(*args, **arguments)
        connection.guard = self.guard
        self.guard.watch(connection)
        return connection


class _Settings:
    """The listener on one engine, which keeps the module's promises."""

    def __init__(self, engine: Engine, busy_timeout: float) -> None:
        self._url = shown(engine.url)
        self._busy_timeout = busy_timeout
        event.listen(engine, "do_connect", self._guard)
        event.listen(engine, "connect", self._set_up)
        event.listen(engine, "checkout", _check_before_use)
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "commit", _check_before_commit)
        event.listen(engine, "handle_error", _check_after_error)

    def _guard(
        self, _dialect: Dialect, record: ConnectionPoolEntry, _args: list[Any], kw: dict[str, Any]
    ) -> None:
        # SQLAlchemy 2.0 gives the arguments of the connection before.
        if not isinstance(kw.get("factory"), _Guarded | None):
            raise _unfit_url(
                self._url, "has a connection factory of its own", "leave connect_args factory out"
            )
        guard = record.info[_GUARD] = Guard()
        kw["factory"] = _Guarded(guard)

    def _set_up(self, connection: Any, record: ConnectionPoolEntry) -> None:
        guard: Guard | None = record.info.get(_GUARD)
        if guard is None:
            raise _unfit_url(
                self._url,
                "makes connections in a way of its own (creator=)",
                "let create_engine() connect by the URL",
            )
        cursor = connection.cursor()
        try:
            cursor.execute("PRAGMA database_list")
            path = next(row[2] for row in cursor.fetchall() if row[1] == "main")
            if not path:
                raise _in_memory(self._url)
            guard.turns = _turns[os.path.realpath(path)]
            cursor.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout * 1000)}")
            _keep_log(self._url, cursor)
            cursor.execute("PRAGMA synchronous = FULL")
            # Only macOS knows the difference between a flush and one that reaches the disk.
            cursor.execute("PRAGMA fullfsync = ON")
            cursor.execute("PRAGMA foreign_keys = ON")
        finally:
            cursor.close()

    def _begin(self, connection: Connection) -> None:
        guard: Guard | None = connection.info.get(_GUARD)
        if guard is None or guard.turns is None:
            # Opened before configure() was called.
            raise UnconfiguredSQLite(self._url)
        options = connection.get_execution_options()
        if options.get("isolation_level") == "AUTOCOMMIT":
            _set_query_only(connection, guard, False)
            return
        driver: Any = connection.connection.dbapi_connection
        if driver.isolation_level is not None:
            # By itself the driver would begin a deferred transaction, and only at the first write,
            # after the reads that the write depends on.
            driver.isolation_level = None
        writes = not options.get("sagabox_readonly")
        try:
            if not writes:
                _set_query_only(connection, guard, True)
                connection.exec_driver_sql("BEGIN")
            else:
                self._begin_writing(connection, guard, guard.turns)
        except BaseException:
            # SQLAlchemy takes a connection whose begin event failed for one that is still about to
            # begin, and would run its next statement in autocommit.
            connection.close()
            raise
        guard.begun(begin_writing(guard.turns) if writes else None)

    def _begin_writing(self, connection: Connection, guard: Guard, turns: WriteQueue) -> None:
        ticket = turns.ask(guard)
        try:
            if connection.dialect.is_async and not ticket.done():
                await_(_wait_for_turn(ticket, self._busy_timeout))
            else:
                ticket.result(self._busy_timeout)
            _set_query_only(connection, guard, False)
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except BaseException as error:
            # An invalidated connection may still get the lock, in the driver's thread: only its end
            # ends the turn.
            if not connection.invalidated:
                turns.withdraw(guard, ticket)
            if isinstance(error, TimeoutError):
                raise self._locked() from error
            raise

    def _locked(self) -> OperationalError:
        error = sqlite3.OperationalError(
            f"database is locked: the writers of this process took more than "
            f"{self._busy_timeout:g} s; keep transactions short, and open no second writer within "
            "a transaction"
        )
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        error.sqlite_errorname = "SQLITE_BUSY"
        return OperationalError("BEGIN IMMEDIATE", None, error)


async def _wait_for_turn(ticket: Ticket, timeout: float) -> None:
    # Not wait_for(): in Python 3.11 that forgets a cancellation which comes together with the turn.
    async with asyncio.timeout(timeout):
        await asyncio.wrap_future(ticket)


def _keep_log(url: str, cursor: Any) -> None:
    mode = ""
    # Two processes that open a new database at once are in each other's way: both hold the lock
    # that the other needs, so SQLite fails at once instead of waiting.
    for attempt in range(1, _WAL_ATTEMPTS + 1):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            mode = cursor.fetchone()[0]
            break
        except sqlite3.OperationalError:
            if attempt == _WAL_ATTEMPTS:
                raise
    if mode != "wal":
        raise _unfit_url(
            url,
            f"cannot keep a write-ahead log (its journal mode stays {mode!r})",
            "put it on a local, writable disk",
        )


def _set_query_only(connection: Connection, guard: Guard, wanted: bool) -> None:
    if guard.query_only is not wanted:
        connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if wanted else 'OFF'}")
        guard.query_only = wanted


def _check_before_use(_: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    guard: Guard | None = record.info.get(_GUARD)
    if guard is not None and guard.is_cut:
        # The pool takes another one.
        raise DisconnectionError("the connection was cut")


def _check_before_commit(connection: Connection) -> None:
    if connection.invalidated:
        return
    guard: Guard | None = connection.info.get(_GUARD)
    if guard is not None and guard.has_lost_transaction:
        connection.invalidate()
        raise TransactionLost(
            "SQLite ended the transaction by itself before it could be committed, and kept nothing "
            "of it",
            next_step="find the earlier error (a full disk, an interrupt, a COMMIT or ROLLBACK in "
            "raw SQL), mend that, and run the whole transaction again",
        )


def _check_after_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    guard: Guard | None = connection.info.get(_GUARD)
    if guard is not None and guard.has_lost_transaction:
        # Every further statement then fails, until the caller has rolled back.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _in_memory(url: str) -> OutboxError:
    return _unfit_url(
        url,
        "is in memory, where there is no write-ahead log, and all sessions share one transaction",
        "use a file, for a test one in a temporary folder",
    )


def _unfit(engine: Engine, problem: str, next_step: str) -> OutboxError:
    return _unfit_url(shown(engine.url), problem, next_step)


def _unfit_url(url: str, problem: str, next_step: str) -> OutboxError:
    return OutboxError(f"the SQLite engine for {url} {problem}", next_step=next_step)
