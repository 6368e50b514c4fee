from __future__ import annotations

import socket
import sqlite3
import ssl
from collections.abc import Callable

import pytest
from asyncpg.exceptions import (  # type: ignore[import-untyped]  # it has no type information
    InterfaceError,
    TargetServerAttributeNotMatched,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbox.database.troubles import (
    Trouble,
    failed_to_connect,
    is_of_database,
    trouble_in_handler,
    trouble_in_statement,
    was_refused,
    words_of,
)
from outbox.errors import TransactionLost

QUESTIONS = (trouble_in_handler, trouble_in_statement)
Question = Callable[[BaseException], Trouble]


class DriverError(Exception):
    """As asyncpg and psycopg raise it: with the server's own code."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def from_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("trouble")
    error.sqlite_errorcode = code
    return error


def wrapped(error: Exception, *, invalidated: bool = False) -> DBAPIError:
    return OperationalError("SELECT", None, error, connection_invalidated=invalidated)


def label(it: object) -> str:
    return str(getattr(it, "__name__", None) or repr(it))


SAME_FOR_ALL = [
    (DriverError("22021"), Trouble.OWN),  # bytes that are no text
    (DriverError("23505"), Trouble.OWN),  # a unique key that is taken
    (DriverError("25P02"), Trouble.OWN),  # a transaction that an earlier error doomed
    (DriverError("40002"), Trouble.OWN),  # a constraint that was checked at the commit
    (DriverError("42P01"), Trouble.OWN),  # a table that is not there
    (DriverError("54000"), Trouble.OWN),  # beyond what PostgreSQL can do for any one
    (DriverError("XX001"), Trouble.OWN),  # one damaged row
    (DriverError("40000"), Trouble.CROSSED),
    (DriverError("40001"), Trouble.CROSSED),
    (DriverError("40P01"), Trouble.CROSSED),
    (DriverError("55P03"), Trouble.LOCKED),
    (DriverError("57014"), Trouble.SLOW),
    (DriverError("53300"), Trouble.CROWDED),
    (DriverError("08001"), Trouble.AWAY),
    (DriverError("08004"), Trouble.AWAY),
    (DriverError("28000"), Trouble.AWAY),
    (DriverError("28P01"), Trouble.AWAY),
    (DriverError("3D000"), Trouble.AWAY),
    (DriverError("57P03"), Trouble.AWAY),
    (DriverError("08000"), Trouble.LOST),
    (DriverError("08003"), Trouble.LOST),
    (DriverError("08006"), Trouble.LOST),
    (DriverError("08007"), Trouble.LOST),
    (DriverError("08P01"), Trouble.LOST),
    (DriverError("25P03"), Trouble.LOST),
    (DriverError("25P04"), Trouble.LOST),
    (DriverError("40003"), Trouble.LOST),
    (DriverError("57P01"), Trouble.LOST),
    (DriverError("57P02"), Trouble.LOST),
    (DriverError("57P04"), Trouble.LOST),
    (DriverError("57P05"), Trouble.LOST),
    (DriverError("25006"), Trouble.FULL),
    (DriverError("53100"), Trouble.FULL),
    (DriverError("58000"), Trouble.BROKEN),
    (DriverError("58030"), Trouble.BROKEN),
    (DriverError("58P01"), Trouble.BROKEN),
    (from_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE), Trouble.OWN),
    (from_sqlite(sqlite3.SQLITE_BUSY), Trouble.LOCKED),
    (from_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), Trouble.LOCKED),
    (from_sqlite(sqlite3.SQLITE_LOCKED), Trouble.LOCKED),
    (from_sqlite(sqlite3.SQLITE_INTERRUPT), Trouble.SLOW),
    (from_sqlite(sqlite3.SQLITE_CANTOPEN), Trouble.AWAY),
    (from_sqlite(sqlite3.SQLITE_FULL), Trouble.FULL),
    (from_sqlite(sqlite3.SQLITE_READONLY), Trouble.FULL),
    (from_sqlite(sqlite3.SQLITE_IOERR_FSYNC), Trouble.BROKEN),
    (sqlite3.ProgrammingError("no code at all"), Trouble.OWN),
    (ValueError("a mistake"), Trouble.OWN),
    (FileNotFoundError(2, "no such file", "page.html"), Trouble.OWN),
    (PoolTimeout("no connection was free"), Trouble.CROWDED),
    (TransactionLost("it is gone", next_step="again"), Trouble.LOST),
]
ONLY_A_STATEMENTS = [
    (DriverError("53000"), Trouble.FULL),
    (DriverError("53200"), Trouble.FULL),  # out of memory, if a handler: by its own query
    (DriverError("53400"), Trouble.FULL),  # a limit was reached, if a handler: by its own query
    (ConnectionRefusedError(111, "refused"), Trouble.AWAY),
    (TimeoutError("no answer"), Trouble.AWAY),
    (socket.gaierror(-2, "name or service not known"), Trouble.AWAY),
    (ssl.SSLError("handshake failed"), Trouble.AWAY),
    (FileNotFoundError(2, "no such file"), Trouble.AWAY),  # the socket of a stopped server
    (OSError("Multiple exceptions: [Errno 111] ..., [Errno 111] ..."), Trouble.AWAY),
    (ConnectionResetError(104, "reset"), Trouble.LOST),
    (BrokenPipeError(32, "broken pipe"), Trouble.LOST),
]
CASES = [(question, *case) for question in QUESTIONS for case in SAME_FOR_ALL] + [
    (trouble_in_statement, *case) for case in ONLY_A_STATEMENTS
]


@pytest.mark.parametrize(("question", "error", "trouble"), CASES, ids=label)
def test_an_error_says_whose_trouble_it_is(
    question: Question, error: Exception, trouble: Trouble
) -> None:
    assert question(error) is trouble
    assert question(wrapped(error)) is trouble
    raised = RuntimeError("other words")
    raised.__cause__ = wrapped(error)
    assert question(raised) is trouble


@pytest.mark.parametrize(("error", "_"), ONLY_A_STATEMENTS, ids=repr)
def test_a_handler_may_ask_others_than_the_database_and_its_queries_are_its_own(
    error: Exception, _: Trouble
) -> None:
    assert trouble_in_handler(error) is Trouble.OWN
    raised = RuntimeError("a handler's own words")
    raised.__cause__ = error
    assert trouble_in_handler(raised) is Trouble.OWN


def test_each_trouble_has_its_owner_and_two_leave_a_commit_in_doubt() -> None:
    blameless = {each for each in Trouble if each.is_the_databases}
    own = {Trouble.OWN, Trouble.CROSSED, Trouble.LOCKED, Trouble.SLOW}
    assert blameless == set(Trouble) - own
    assert {each for each in Trouble if each.leaves_outcome_unknown} == {
        Trouble.LOST,
        Trouble.BROKEN,
    }


@pytest.mark.parametrize("sqlstate", ["22P02", "23505", "40P01", "53100", "57014"])
def test_what_the_server_refused_did_nothing(sqlstate: str) -> None:
    assert was_refused(wrapped(DriverError(sqlstate)))


@pytest.mark.parametrize(
    "error",
    [
        wrapped(DriverError("57P01")),
        wrapped(DriverError("08003")),
        wrapped(DriverError("58030")),
        wrapped(DriverError(None), invalidated=True),
        TimeoutError("no answer"),
        ConnectionResetError(104, "reset"),
        RuntimeError("a driver's own words"),
    ],
    ids=repr,
)
def test_what_the_server_has_not_answered_may_have_taken_effect(error: Exception) -> None:
    assert not was_refused(error)


def test_psycopg_says_without_a_code_that_it_cannot_connect_or_was_cut_off() -> None:
    assert trouble_in_statement(wrapped(DriverError(None))) is Trouble.AWAY
    assert trouble_in_statement(wrapped(DriverError(None), invalidated=True)) is Trouble.LOST


def test_an_error_that_was_dealt_with_says_nothing_of_a_handler() -> None:
    raised = RuntimeError("something else")
    raised.__context__ = wrapped(DriverError("57P01"))
    assert trouble_in_handler(raised) is Trouble.OWN
    # What comes up while an error of our own statements is handled, is most likely its consequence.
    assert trouble_in_statement(raised) is Trouble.LOST
    raised.__suppress_context__ = True
    assert trouble_in_statement(raised) is Trouble.OWN


@pytest.mark.parametrize("question", QUESTIONS, ids=label)
def test_a_connection_that_broke_is_the_databases_trouble_with_every_error(
    question: Question,
) -> None:
    for error in (ValueError("?"), DriverError("XX000"), from_sqlite(sqlite3.SQLITE_INTERRUPT)):
        assert question(wrapped(error, invalidated=True)) is Trouble.LOST


@pytest.mark.parametrize("question", QUESTIONS, ids=label)
def test_what_led_to_the_end_of_a_transaction_says_more_than_its_end(question: Question) -> None:
    lost = TransactionLost("gone", next_step="again")
    lost.__cause__ = wrapped(from_sqlite(sqlite3.SQLITE_FULL), invalidated=True)
    assert question(lost) is Trouble.FULL


@pytest.mark.parametrize("question", QUESTIONS, ids=label)
def test_causes_that_go_in_a_circle_are_followed_for_a_while_only(question: Question) -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert question(one) is Trouble.OWN


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (wrapped(DriverError("28P01")), True),
        (DriverError("28P01"), True),
        (DriverError("23505"), True),
        (ConnectionRefusedError(111, "refused"), True),
        (PoolTimeout("no connection"), True),
        (InterfaceError("unexpected authentication method"), True),
        (TargetServerAttributeNotMatched("no host is a standby"), True),
        (DriverError(None), False),
        (RuntimeError("boom"), False),
    ],
    ids=label,
)
def test_an_error_is_a_databases_wrapped_or_bare(error: Exception, is_one: bool) -> None:
    assert is_of_database(error) is is_one


def test_the_words_of_an_error_are_the_databases_own() -> None:
    assert words_of(wrapped(DriverError("28P01"))) == "28P01"
    assert words_of(DriverError("28P01")) == "28P01"
    assert words_of(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (InterfaceError("unsupported authentication method requested by the server"), True),
        (DBAPIError(None, None, DriverError(None)), True),
        (DBAPIError("SELECT", None, DriverError(None)), False),  # it was connected by then
        (DBAPIError(None, None, DriverError("23505")), False),  # a commit that was refused
        (ValueError("an error of ours"), False),
    ],
    ids=label,
)
def test_it_is_known_where_no_connection_could_be_made(error: Exception, is_so: bool) -> None:
    assert failed_to_connect(error) is is_so
