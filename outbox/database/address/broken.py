"""New connections that PostgreSQL breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConnectionBroken(ConnectionError):
    """PostgreSQL accepted the connection, and was gone before the first statement."""

    sqlstate = "08001"  # no connection could be made


@contextmanager
def broken_off() -> Iterator[None]:
    """Raises ConnectionBroken in place of any error."""
    try:
        yield
    except Exception as error:
        # A server that stops just now is told by drivers in ways of their own, without a code.
        raise ConnectionBroken(f"PostgreSQL broke off a new connection: {error}") from error
