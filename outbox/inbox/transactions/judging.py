"""What an error means that ended a transaction of the inbox."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import InternalError, OperationalError, ProgrammingError

from outbox.database.troubles import Trouble, trouble_in_handler, trouble_in_statement
from outbox.errors import AutocommitRefused, IsolationRefused, TransactionLost
from outbox.inbox.rows import Arrival
from outbox.inbox.transactions.terms import HandlerLate, RolledBack, failure
from outbox.replies import Reply


class SteppedBack(Exception):
    """A handler gave a reply that is not stored, so that the transaction is rolled back."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class HandlerFailed(Exception):
    """A handler raised `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Vanished(Exception):
    """A row was purged between the insert that found it there and the look at it."""


def judged(
    error: Exception, in_hand: Sequence[Arrival], connection: Connection | None
) -> Exception:
    """The exception to raise for an error: RolledBack, or the error itself where the database is
    away. `in_hand` are the messages whose handler was running."""
    match error:
        case RolledBack():
            return error
        case SteppedBack(reply=reply):
            return RolledBack(Trouble.OWN, error, in_hand, reply)
        case HandlerLate():
            # Not called again with the rest: it would take as long once more.
            known = None if len(in_hand) > 1 else failure(error)
            return RolledBack(Trouble.SLOW, error, in_hand, known)
        case HandlerFailed(error=cause):
            trouble, found = trouble_in_handler(cause), cause
        case Vanished():
            trouble, found = Trouble.CROSSED, error
        case IsolationRefused() | AutocommitRefused():
            return error
        case _:
            trouble, found = trouble_in_statement(error), error
            if trouble is Trouble.OWN and isinstance(
                error, InternalError | OperationalError | ProgrammingError
            ):
                # Our own statements fail like this on a database without our tables.
                return error
    if trouble.is_the_databases:
        return found
    if connection is not None and connection.invalidated:
        # A handler hid that failure, and every later error is only a consequence.
        return TransactionLost(
            "the connection to the database broke while a handler ran",
            next_step="send the messages again, once the database is back",
        )
    return RolledBack(trouble, found, in_hand)
