"""SQLite connections that know whether their transaction stands, and end their turn to write."""

from __future__ import annotations

import sqlite3
import weakref

from outbox.database.write_queue import WriteQueue


class Guard:
    """The guard of one SQLite connection: its place in the write queue, and its transaction."""

    def __init__(self) -> None:
        self.turns: WriteQueue | None = None
        self.query_only = False
        self._transaction = False
        self._connection: weakref.ref[sqlite3.Connection] | None = None

    def watch(self, connection: GuardedConnection) -> None:
        """Guard this connection, until it is closed or garbage."""
        self._connection = weakref.ref(connection)
        weakref.finalize(connection, self.ended).atexit = False

    def begun(self) -> None:
        """Note that a transaction was begun."""
        self._transaction = True

    def ended(self) -> None:
        """Note that the transaction, if any, has ended; the next writer may go on."""
        self._transaction = False
        if self.turns is not None:
            self.turns.pass_on(self)

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

    def commit(self) -> None:
        try:
            super().commit()
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
        # A commit that failed may have left the transaction open, for a second attempt.
        if not self.in_transaction:
            self.guard.ended()
