"""Problems for the troubles of a database: each is a 503 that says when to come back.

A request may take several transactions, of which one fails. So the texts speak of that one, and
none promises that nothing was changed.
"""

from __future__ import annotations

from typing import assert_never

from outbox.chassis.http.problems import HttpProblem
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import TransactionLost

_READ_FIRST = "If the request was to change something, read first whether it did."


def database_problem(error: BaseException) -> HttpProblem | None:
    """The problem for an error of a request's own statements; None where the database is not in
    trouble."""
    trouble = trouble_in_statement(error)
    if trouble is Trouble.LOST and isinstance(error, TransactionLost):
        return None  # its own words know more
    return problem_of_trouble(trouble)


def problem_of_trouble(trouble: Trouble) -> HttpProblem | None:
    """The problem for this trouble; None for a trouble that is not the database's."""
    match trouble:
        case Trouble.OWN:
            return None
        case Trouble.AWAY:
            return _problem(
                "database-away",
                "The database does not answer.",
                f"Try again a little later. {_READ_FIRST} If it lasts, see whether the database "
                "runs and whether the service's database URL is right.",
                2.0,
            )
        case Trouble.LOST:
            return _problem(
                "database-connection-lost",
                "The connection to the database broke during the request; whether it took effect "
                "is not known.",
                "Read before you repeat the request.",
                2.0,
            )
        case Trouble.CROSSED | Trouble.LOCKED | Trouble.SLOW | Trouble.CROWDED:
            return _problem(
                "database-busy",
                "The database had no room or no time for a transaction of the request, and kept "
                "nothing of that transaction.",
                f"Try again a little later. {_READ_FIRST}",
                1.0,
            )
        case Trouble.FULL:
            return _problem(
                "database-full",
                "The database has no space or memory left, or takes no writes; it kept nothing of "
                "the transaction that failed.",
                "Free space on the database's disk, or make it writable, and send the request "
                f"again. {_READ_FIRST}",
                30.0,
            )
        case Trouble.BROKEN:
            return _problem(
                "database-broken",
                "The database cannot read or write its own files; whether the request took effect "
                "is not known.",
                "See the database's log, and mend its disk. Read before you repeat the request.",
                30.0,
            )
        case _:
            assert_never(trouble)


def _problem(code: str, detail: str, next_step: str, retry_after: float) -> HttpProblem:
    return HttpProblem(503, code, detail, next_step=next_step, retry_after=retry_after)
