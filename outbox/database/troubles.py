"""The troubles of a database, told from the errors that its drivers raise.

There are two questions, for an error means more where its sender is known:

- `trouble_in_handler`: a handler may have raised it, and may have asked other services than the
  database. Only what surely comes from the database counts.
- `trouble_in_statement`: a statement of this package raised it. A socket that cannot be opened is
  the database's here, since a statement opens no other.

Both read SQLSTATE and SQLite's codes, as asyncpg, psycopg and aiosqlite report them, bare or
wrapped by SQLAlchemy, and never a driver's class. Whether an error is a database's at all is
another question, `is_of_database`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox.errors import TransactionLost

_DEPTH = 20


class Trouble(Enum):
    """What an error says about trying again."""

    OWN = auto()
    """The message, its handler or the run causes it; it will most likely happen again."""
    CROSSED = auto()
    """Two transactions were in each other's way, and this one gave way; at once is soon enough."""
    LOCKED = auto()
    """Another transaction held a lock for too long."""
    SLOW = auto()
    """A statement took too long."""
    CROWDED = auto()
    """The database, or the pool of this process, has no connection to spare."""
    AWAY = auto()
    """No connection could be made."""
    LOST = auto()
    """The connection broke, or the server ended it: what was asked last may have taken effect."""
    FULL = auto()
    """The database has no space or memory left, or takes no writes."""
    BROKEN = auto()
    """The server cannot read or write its files: what was asked last may have taken effect."""

    @property
    def is_the_databases(self) -> bool:
        """Whether the database itself is in trouble, so that no message and no run is to blame."""
        return self in _THE_DATABASES

    @property
    def leaves_outcome_unknown(self) -> bool:
        """Whether a commit that failed like this may have taken place."""
        return self in (Trouble.LOST, Trouble.BROKEN)


_THE_DATABASES = frozenset(
    {Trouble.CROWDED, Trouble.AWAY, Trouble.LOST, Trouble.FULL, Trouble.BROKEN}
)

# Whole classes (two or three characters) and single codes of PostgreSQL's appendix A.
_BY_SQLSTATE = {
    "08": Trouble.LOST,  # connection exceptions
    "08001": Trouble.AWAY,  # no connection could be made
    "08004": Trouble.AWAY,  # the server let none be made
    "25006": Trouble.FULL,  # a standby, or a read-only database
    "25P03": Trouble.LOST,  # an idle transaction was ended
    "25P04": Trouble.LOST,  # a transaction took too long
    "28": Trouble.AWAY,  # it does not let us in
    "3D000": Trouble.AWAY,  # it does not exist
    "40000": Trouble.CROSSED,  # rolled back, without another reason
    "40001": Trouble.CROSSED,  # serialisation failure
    "40003": Trouble.LOST,  # whether the statement completed is not known
    "40P01": Trouble.CROSSED,  # deadlock
    "53": Trouble.FULL,  # disk full, out of memory, a limit reached
    "53300": Trouble.CROWDED,  # too many connections
    "55P03": Trouble.LOCKED,  # lock_timeout
    "57014": Trouble.SLOW,  # statement_timeout
    "57P": Trouble.LOST,  # the server stops or crashed, or the database was dropped
    "57P03": Trouble.AWAY,  # the server is starting
    "58": Trouble.BROKEN,  # the server's own input and output
}
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_INTERRUPT: Trouble.SLOW,
    sqlite3.SQLITE_CANTOPEN: Trouble.AWAY,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.BROKEN,
    sqlite3.SQLITE_READONLY: Trouble.FULL,
}
_OF_A_GREEDY_QUERY = frozenset({"53000", "53200", "53400"})
"""Out of memory, or beyond a limit: most likely by the very query that a handler has made."""


def trouble_in_handler(error: BaseException) -> Trouble:
    """What an error that a handler may have raised, or what it was raised `from`, says about the
    database; OWN if nothing."""
    return _first_trouble(_causes(error, contexts=False), _in_handler)


def trouble_in_statement(error: BaseException) -> Trouble:
    """What an error of a statement that this package made says about the database, or what led to
    it; OWN if nothing."""
    return _first_trouble(_causes(error, contexts=True), _in_statement)


def was_refused(error: BaseException) -> bool:
    """Whether it is the server's answer to a statement, which then did nothing. False where the
    answer is missing, or says that the server itself is in trouble."""
    answered = any(_sqlstate(it) is not None for it in _causes(error, contexts=False))
    return answered and not trouble_in_statement(error).leaves_outcome_unknown


def is_of_database(error: BaseException) -> bool:
    """Whether a database has raised it, or a socket or file on the way to one: wrapped by
    SQLAlchemy or bare, as SQLAlchemy 2.0 passes on what asyncpg raises where it cannot connect."""
    known = isinstance(error, (DBAPIError, PoolTimeout, OSError)) or _sqlstate(error) is not None
    return known or _is_of_asyncpg(error)


def failed_to_connect(error: BaseException) -> bool:
    """Whether no connection could be made, for a reason that may have no code: a server of another
    kind, a way to log in that the driver lacks, a wrong option in the address."""
    if isinstance(error, DBAPIError):
        return error.statement is None and _sqlstate(error.orig or error) is None
    return _is_of_asyncpg(error) and _sqlstate(error) is None


def is_said_by(words: str, error: BaseException) -> bool:
    """Whether the error, or what led to it, has these words: for what comes without a code."""
    return any(words in str(it) for it in _causes(error, contexts=True))


def words_of(error: BaseException) -> str:
    """The database's own words, without those of SQLAlchemy."""
    cause = getattr(error, "orig", None) or error
    return str(cause) or type(cause).__name__


def _first_trouble(
    causes: Iterator[BaseException], question: Callable[[BaseException], Trouble | None]
) -> Trouble:
    """The nearest of the database's own troubles, else the nearest of the others."""
    found: Trouble | None = None
    lost = False
    for cause in causes:
        # Both say only that something is over; what led to them may say more.
        lost = lost or isinstance(cause, TransactionLost)
        lost = lost or (isinstance(cause, DBAPIError) and cause.connection_invalidated)
        trouble = question(cause)
        if trouble is not None and trouble.is_the_databases:
            return trouble
        found = found or trouble
    return Trouble.LOST if lost else found or Trouble.OWN


def _in_handler(error: BaseException) -> Trouble | None:
    if getattr(error, "sqlstate", None) in _OF_A_GREEDY_QUERY:
        return None
    return _by_code(error)


def _in_statement(error: BaseException) -> Trouble | None:
    match error:
        case ConnectionResetError() | BrokenPipeError() if _sqlstate(error) is None:
            return Trouble.LOST
        case OSError(filename=None) if _sqlstate(error) is None:
            # asyncpg connects without a word of its own; what a socket raises names no file.
            return Trouble.AWAY
        case OperationalError(connection_invalidated=False) if _is_without_code(error.orig):
            # psycopg's own word, not the server's: it could not connect.
            return Trouble.AWAY
        case _:
            return _by_code(error)


def _by_code(error: BaseException) -> Trouble | None:
    if isinstance(error, PoolTimeout):
        return Trouble.CROWDED
    if (sqlstate := _sqlstate(error)) is not None:
        candidates = (sqlstate, sqlstate[:3], sqlstate[:2])
        return next((_BY_SQLSTATE[each] for each in candidates if each in _BY_SQLSTATE), None)
    if isinstance(error, sqlite3.Error):
        # The low byte is the code, the rest says more about it.
        return _BY_SQLITE_CODE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
    return None


def _sqlstate(error: BaseException) -> str | None:
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def _is_of_asyncpg(error: BaseException) -> bool:
    """Whether it is asyncpg's own, which has no SQLSTATE where the server was not asked."""
    return any(it.__module__.partition(".")[0] == "asyncpg" for it in type(error).__mro__)


def _is_without_code(error: BaseException | None) -> bool:
    return getattr(error, "sqlstate", "") is None


def _causes(error: BaseException, *, contexts: bool) -> Iterator[BaseException]:
    """The error and what led to it, nearest first; bounded, since such chains can be circles.

    Without `contexts`, an error that was dealt with before this one was raised is left out.
    """
    seen: set[int] = set()
    todo = [error]
    while todo and len(seen) < _DEPTH:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        context = contexts and not current.__suppress_context__
        led_to_it = (
            current.__context__ if context else None,
            current.__cause__,
            current.orig if isinstance(current, DBAPIError) else None,
        )
        todo += [cause for cause in led_to_it if cause is not None]
