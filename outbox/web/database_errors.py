"""Which errors are the database's trouble, and nobody's mistake: away, busy, full, read only.

Works on what the drivers raise (asyncpg, psycopg, aiosqlite), bare or wrapped by SQLAlchemy, by
SQLSTATE and by SQLite's error codes, never by a driver's class.
"""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from enum import Enum

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox.web.problems import HttpProblem


class Trouble(Enum):
    """code, what happened, what to do, and after how many seconds to try again."""

    AWAY = (
        "database-away",
        "The database does not answer; nothing was changed.",
        "Try again a little later. If it lasts, see whether the database runs and whether the "
        "service's database URL is right.",
        2.0,
    )
    LOST = (
        "database-connection-lost",
        "The connection to the database broke during the request; whether it took effect is not "
        "known.",
        "Read before you repeat the request.",
        2.0,
    )
    BUSY = (
        "database-busy",
        "The database had no room or no time for the request; nothing was changed.",
        "Try again a little later.",
        1.0,
    )
    FULL = (
        "database-full",
        "The database has no space left, or takes no writes; nothing was changed.",
        "Free space on the database's disk, or make it writable, and send the request again.",
        30.0,
    )

    def to_problem(self) -> HttpProblem:
        code, detail, next_step, retry_after = self.value
        return HttpProblem(503, code, detail, next_step=next_step, retry_after=retry_after)


# Classes (two characters) and single codes of PostgreSQL's appendix A.
_BY_SQLSTATE = {
    "08": Trouble.LOST,  # connection exceptions
    "08001": Trouble.AWAY,  # no connection could be made
    "40": Trouble.BUSY,  # deadlocks and serialisation failures
    "53": Trouble.FULL,  # insufficient resources
    "53300": Trouble.BUSY,  # too many connections
    "55P03": Trouble.BUSY,  # a lock was not to be had in time
    "57014": Trouble.BUSY,  # a statement took too long
    "57P01": Trouble.LOST,  # the server is being stopped
    "57P02": Trouble.LOST,  # ... or has crashed
    "57P03": Trouble.AWAY,  # ... or is starting
    "57P05": Trouble.LOST,  # an idle session was ended
    "25006": Trouble.FULL,  # a standby, or a read-only database
    "25P03": Trouble.LOST,  # an idle transaction was ended
    "25P04": Trouble.LOST,  # a transaction took too long
    "28": Trouble.AWAY,  # it does not let the service in
    "3D000": Trouble.AWAY,  # the database does not exist
}
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_READONLY: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.FULL,
    sqlite3.SQLITE_CANTOPEN: Trouble.AWAY,
    sqlite3.SQLITE_INTERRUPT: Trouble.BUSY,
}


def diagnose(error: BaseException) -> Trouble | None:
    """What ails the database, or None where the error is something else."""
    lost = False
    for cause in _causes(error):
        trouble = _of_one(cause)
        if trouble is not None:
            return trouble
        # Said also of a connection that had to be dropped after an error with a code of its own.
        lost = lost or (isinstance(cause, DBAPIError) and cause.connection_invalidated)
    return Trouble.LOST if lost else None


def _of_one(error: BaseException) -> Trouble | None:
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        return _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2])
    if isinstance(error, sqlite3.Error):
        # The low byte is the code, the rest says more about it.
        return _BY_SQLITE_CODE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
    if isinstance(error, PoolTimeout):
        return Trouble.BUSY
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return Trouble.LOST
    if isinstance(error, ConnectionError | socket.gaierror | TimeoutError):
        return Trouble.AWAY
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, nearest first; bounded, since such chains can be circles."""
    seen: set[int] = set()
    todo = [error]
    while todo and len(seen) < 20:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        for cause in (getattr(current, "orig", None), current.__cause__, current.__context__):
            if isinstance(cause, BaseException):
                todo.append(cause)
