"""The end of a transaction from outside: of one that belongs to a thread which does not end it."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection

from outbox.database.sqlite_connection import GuardedConnection

_WITH_SOCKETS = ("psycopg", "psycopg2")


def can_be_cut(dialect: Dialect) -> bool:
    """Whether `cut` works for connections of this dialect. It is a synchronous one."""
    return dialect.name == "sqlite" or dialect.driver in _WITH_SOCKETS


def cut(connection: DBAPIConnection) -> None:
    """End the connection's transaction from another thread than its own, and let every later
    statement fail there. Waits for a statement that SQLite has under way, after interrupting it.

    On PostgreSQL the socket is shut: the server rolls back as soon as it looks, and a statement
    that it has under way ends at its bound.
    """
    match connection:
        case GuardedConnection():
            connection.guard.cut()
        case _:
            driver: Any = connection
            # One that is closed already has no socket. The copy lets the driver's own number be.
            with (
                contextlib.suppress(Exception),
                socket.socket(fileno=os.dup(driver.fileno())) as copy,
            ):
                copy.shutdown(socket.SHUT_RDWR)
