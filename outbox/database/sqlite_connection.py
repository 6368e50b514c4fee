"""SQLite connections that know whether their transaction stands, and end their turn to write."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import URL

from outbox.database.write_queue import WriteQueue, Writing

_LOOK_AGAIN = 0.05
"""Seconds after which a statement that did not end is interrupted again."""


def file_of(url: URL) -> str:
    """The file that is opened by this URL of SQLite: one name for it, by all links that lead
    there and all ways to write the URL."""
    path = url.database or ""
    if url.query.get("uri") and path.startswith("file:"):
        path = unquote(urlsplit(path).path)
    return os.path.realpath(path)


class Guard:
    """The guard of one SQLite connection: its place in the write queue, and its transaction."""

    def __init__(self) -> None:
        self.turns: WriteQueue | None = None
        self.query_only = False
        self._transaction = False
        self._writing: Writing | None = None
        self.is_cut = False
        """Whether its transaction was ended from outside, after which no statement runs."""
        self.statement = threading.Lock()
        """Held during each statement."""
        self._connection: weakref.ref[sqlite3.Connection] | None = None

    def watch(self, connection: GuardedConnection) -> None:
        """Guard this connection, until it is closed or garbage."""
        self._connection = weakref.ref(connection)
        weakref.finalize(connection, self.ended).atexit = False

    def begun(self, writing: Writing | None) -> None:
        """Note that a transaction was begun; `writing` is one that writes."""
        self._transaction, self._writing = True, writing

    def ended(self) -> None:
        """Note that the transaction, if any, has ended; the next writer may go on."""
        self._transaction = False
        if self._writing is not None:
            self._writing.is_over, self._writing = True, None
        if self.turns is not None:
            self.turns.pass_on(self)

    def require_uncut(self) -> None:
        """Raises OperationalError once the connection was cut. For the holder of `statement`."""
        if self.is_cut:
            raise sqlite3.OperationalError(
                "the transaction was ended from outside, and this connection with it"
            )

    def cut(self) -> None:
        """Roll the transaction back in another thread than its own; no statement runs any more."""
        connection = None if self._connection is None else self._connection()
        self.is_cut = True
        # One that is closed already has nothing left to cut.
        with contextlib.suppress(sqlite3.ProgrammingError):
            if connection is not None:
                connection.interrupt()
                while not self.statement.acquire(timeout=_LOOK_AGAIN):
                    # It may have begun only after the interrupt.
                    connection.interrupt()
                try:
                    connection.rollback()
                finally:
                    self.statement.release()

    @property
    def has_lost_transaction(self) -> bool:
        """Whether SQLite ended the transaction without having been told to."""
        connection = None if self._connection is None else self._connection()
        if not self._transaction or connection is None:
            return False
        try:
            return not connection.in_transaction
        except sqlite3.ProgrammingError:  # it is closed
            return True


class GuardedConnection(sqlite3.Connection):
    """A connection that tells its guard of the end of its transaction, in any thread, for any
    reason.

    SQLAlchemy's own events come before COMMIT and ROLLBACK are sent, which would let the next
    writer run into the lock that still stands.
    """

    guard: Guard

    def cursor(self, factory: Any = None) -> Any:
        """A cursor whose statements the guard watches."""
        return super().cursor(factory or _GuardedCursor)

    # Python's own shortcuts take a cursor past `cursor()`.

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """As of a cursor."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        """As of a cursor."""
        return self.cursor().executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        """As of a cursor."""
        return self.cursor().executescript(sql_script)

    def commit(self) -> None:
        try:
            with self.guard.statement:
                self.guard.require_uncut()
                try:
                    super().commit()
                except sqlite3.Error:
                    # SQLAlchemy takes it for the end, and its pool would keep the lock.
                    super().rollback()
                    raise
        finally:
            self._tell()

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._tell()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.guard.ended()

    def _tell(self) -> None:
        # What failed may have left the transaction open.
        if not self.in_transaction:
            self.guard.ended()


class _GuardedCursor(sqlite3.Cursor):
    connection: GuardedConnection

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        guard = self.connection.guard
        with guard.statement:
            guard.require_uncut()
            return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        guard = self.connection.guard
        with guard.statement:
            guard.require_uncut()
            return super().executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        guard = self.connection.guard
        with guard.statement:
            guard.require_uncut()
            return super().executescript(sql_script)
