"""Whose trouble an error is: the message's own, another transaction's, or the database's.

Only the first uses up an attempt of the message. Told by SQLSTATE and by SQLite's codes, as
asyncpg, psycopg and aiosqlite report them, bare or wrapped by SQLAlchemy; never by a driver's
class.
"""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox.errors import TransactionLost

_DEPTH = 10


class Trouble(Enum):
    """What an error says about trying again."""

    OWN = auto()
    """The message or its handler causes it; it will most likely happen again."""
    CROSSED = auto()
    """Two transactions were in each other's way, and this one gave way; at once is soon enough."""
    LOCKED = auto()
    """Somebody else held a lock for too long."""
    SLOW = auto()
    """A statement took too long."""
    DATABASE = auto()
    """The database is away, full or read only, or whether it committed is not known."""


# Whole classes (two characters) and single codes of PostgreSQL's appendix A.
_BY_SQLSTATE = {
    "08": Trouble.DATABASE,  # connection exceptions
    "25006": Trouble.DATABASE,  # a standby, or a read-only database
    "25P03": Trouble.DATABASE,  # an idle transaction was ended
    "25P04": Trouble.DATABASE,  # a transaction took too long
    "28": Trouble.DATABASE,  # it does not let us in
    "3D000": Trouble.DATABASE,  # it does not exist
    "40001": Trouble.CROSSED,  # serialisation failure
    "40003": Trouble.DATABASE,  # whether the statement completed is not known
    "40P01": Trouble.CROSSED,  # deadlock
    "53100": Trouble.DATABASE,  # disk full
    "53300": Trouble.DATABASE,  # too many connections
    "55P03": Trouble.LOCKED,  # lock_timeout
    "57014": Trouble.SLOW,  # statement_timeout
    "57P": Trouble.DATABASE,  # the server stops, starts or crashed
    "58": Trouble.DATABASE,  # the server's own input and output
}
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_INTERRUPT: Trouble.SLOW,
    sqlite3.SQLITE_CANTOPEN: Trouble.DATABASE,
    sqlite3.SQLITE_FULL: Trouble.DATABASE,
    sqlite3.SQLITE_IOERR: Trouble.DATABASE,
    sqlite3.SQLITE_READONLY: Trouble.DATABASE,
}


def trouble_of(error: BaseException) -> Trouble:
    """What the error, or what it was raised `from`, says about the database; OWN if nothing."""
    cause: BaseException | None = error
    for _ in range(_DEPTH):
        if cause is None:
            break
        found = _of_one(cause)
        if found is not None:
            return found
        cause = cause.__cause__
    return Trouble.OWN


def _of_one(error: BaseException) -> Trouble | None:
    if isinstance(error, TransactionLost | PoolTimeout):
        return Trouble.DATABASE
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return Trouble.DATABASE
        return None if error.orig is None else _of_one(error.orig)
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        candidates = (sqlstate, sqlstate[:3], sqlstate[:2])
        return next((_BY_SQLSTATE[each] for each in candidates if each in _BY_SQLSTATE), None)
    if isinstance(error, sqlite3.Error):
        # The low byte is the code, the rest says more about it.
        return _BY_SQLITE_CODE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
    return None
