from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox.errors import TransactionLost
from outbox.troubles import Trouble, trouble_of


class DriverError(Exception):
    """As asyncpg and psycopg raise it: with the server's own code."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def from_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("trouble")
    error.sqlite_errorcode = code
    return error


def wrapped(error: Exception, *, invalidated: bool = False) -> DBAPIError:
    return OperationalError("SELECT", None, error, connection_invalidated=invalidated)


CASES = [
    (DriverError("23505"), Trouble.OWN),  # a unique key that is taken
    (DriverError("25P02"), Trouble.OWN),  # a transaction that an earlier error doomed
    (DriverError("42P01"), Trouble.OWN),  # a table that is not there
    (DriverError("53200"), Trouble.OWN),  # out of memory, most likely by this very query
    (DriverError("40001"), Trouble.CROSSED),
    (DriverError("40P01"), Trouble.CROSSED),
    (DriverError("55P03"), Trouble.LOCKED),
    (DriverError("57014"), Trouble.SLOW),
    (DriverError("08006"), Trouble.DATABASE),
    (DriverError("25006"), Trouble.DATABASE),
    (DriverError("40003"), Trouble.DATABASE),
    (DriverError("53100"), Trouble.DATABASE),
    (DriverError("57P01"), Trouble.DATABASE),
    (DriverError("57P03"), Trouble.DATABASE),
    (DriverError("58030"), Trouble.DATABASE),
    (from_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE), Trouble.OWN),
    (from_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), Trouble.LOCKED),
    (from_sqlite(sqlite3.SQLITE_FULL), Trouble.DATABASE),
    (from_sqlite(sqlite3.SQLITE_IOERR_FSYNC), Trouble.DATABASE),
    (from_sqlite(sqlite3.SQLITE_READONLY), Trouble.DATABASE),
    (sqlite3.ProgrammingError("no code at all"), Trouble.OWN),
    (ValueError("a handler's own"), Trouble.OWN),
    (TimeoutError("of a handler's own call to somebody"), Trouble.OWN),
    (ConnectionRefusedError("the same"), Trouble.OWN),
    (PoolTimeout("no connection was free"), Trouble.DATABASE),
    (TransactionLost("it is gone", next_step="again"), Trouble.DATABASE),
]


@pytest.mark.parametrize(("error", "trouble"), CASES, ids=repr)
def test_an_error_says_whose_trouble_it_is(error: Exception, trouble: Trouble) -> None:
    assert trouble_of(error) is trouble
    assert trouble_of(wrapped(error)) is trouble


@pytest.mark.parametrize(("error", "trouble"), CASES, ids=repr)
def test_an_error_that_was_raised_from_it_says_the_same(error: Exception, trouble: Trouble) -> None:
    raised = RuntimeError("a handler's own words")
    raised.__cause__ = wrapped(error)
    assert trouble_of(raised) is trouble


def test_an_error_that_a_handler_dealt_with_says_nothing() -> None:
    raised = RuntimeError("something else")
    raised.__context__ = wrapped(DriverError("57P01"))
    assert trouble_of(raised) is Trouble.OWN


def test_a_connection_that_broke_is_the_databases_trouble_whatever_the_error() -> None:
    assert trouble_of(wrapped(ValueError("?"), invalidated=True)) is Trouble.DATABASE


def test_causes_that_go_in_a_circle_are_followed_for_a_while_only() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert trouble_of(one) is Trouble.OWN
