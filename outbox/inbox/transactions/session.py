"""The session that the inbox shares with handlers: they write with it, and the inbox commits it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session, SessionTransaction

from outbox.errors import IsolationRefused
from outbox.replies import Outcome, Reply

READ_COMMITTED = "read committed"
"""The isolation level of PostgreSQL, as it says it, at which each statement sees what was committed
before it."""
_IN_HAND = "sagabox_in_hand"
_FAILED_STATEMENT = "sagabox_failed_statement"

_watched: WeakSet[Engine] = WeakSet()


class HandlerMeddled(RuntimeError):
    """A handler ended a transaction that is not its own, or left one of its own open."""

    def __init__(self) -> None:
        super().__init__(
            "the handler committed, rolled back or closed the transaction that it was given, or "
            "left a savepoint of its own open; the inbox commits, and a handler that wants nothing "
            "kept raises or returns Refused"
        )


class HandlerGivenUp(RuntimeError):
    """The handler took too long, and its thread goes on after its transaction was ended."""

    def __init__(self) -> None:
        super().__init__(
            "the handler took longer than it may; its transaction was ended, and it can write "
            "nothing more"
        )


def take_in_hand(session: Session, ids: Collection[str]) -> None:
    """Note that this session's transaction decides about these ids."""
    session.info[_IN_HAND] = frozenset(ids)


def is_in_hand(session: Session, id: str) -> bool:
    """Whether this session's transaction decides about that id."""
    return id in session.info.get(_IN_HAND, ())


class CommitLock:
    """A lock that makes every commit of a session fail until `lift`. Savepoints are free."""

    def __init__(self, session: Session) -> None:
        self._is_on = True
        event.listen(session, "before_commit", self._refuse)

    def lift(self) -> None:
        """Let commits go through from now on."""
        self._is_on = False

    def _refuse(self, session: Session) -> None:
        if self._is_on and not session.in_nested_transaction():
            raise HandlerMeddled


class Poison:
    """Lets a session begin no transaction any more, once it was `given`."""

    def __init__(self, session: Session) -> None:
        self._is_given = False
        event.listen(session, "after_begin", self._refuse)

    def give(self) -> None:
        """From now on."""
        self._is_given = True

    def _refuse(self, _session: Session, _of: SessionTransaction, connection: Connection) -> None:
        if self._is_given:
            # The session has it already, with SQLite's lock, and would not ask again.
            connection.invalidate()
            raise HandlerGivenUp


def leave_as_new(session: Session) -> None:
    """Write pending changes and let go of all objects: the next handler finds the session like a
    new one, as if the earlier handlers had committed.

    A flush for all handlers at once would be three times as fast for those that only add objects.
    But a handler must see the writes of those before it, also by plain SQL; an error must come up
    in the handler that caused it; and an object that a later statement changed must not be found as
    it was. A service that needs the speed registers a handler for lists.
    """
    if session.new or session.dirty or session.deleted:
        session.flush()
    session.expunge_all()


def straight(session: Session, call: Callable[[], list[Reply]]) -> list[Reply]:
    """Call a handler in the session's transaction. Raises HandlerMeddled where it ended that, or
    left a savepoint open."""
    root = session.get_transaction()
    replies = call()
    if session.get_transaction() is not root or session.in_nested_transaction():
        raise HandlerMeddled
    leave_as_new(session)
    return replies


def within_savepoint(session: Session, call: Callable[[], list[Reply]]) -> list[Reply]:
    """Call a handler for one message, and keep what it wrote only where it is done or pending.
    Raises as `straight` does."""
    with session.begin_nested() as savepoint:
        replies = call()
        if session.get_nested_transaction() is not savepoint:
            raise HandlerMeddled
        if replies[0].outcome is not Outcome.DONE and not replies[0].is_pending:
            savepoint.rollback()
    leave_as_new(session)
    return replies


def watch(engine: Engine) -> None:
    """Let this engine's connections remember failed statements.

    PostgreSQL answers the COMMIT of a doomed transaction by rolling it back, and no driver calls
    that an error: a handler that hid the failure would be believed.
    """
    if engine.dialect.name == "postgresql" and engine not in _watched:
        event.listen(engine, "handle_error", _remember)
        _watched.add(engine)


def forget_failures(session: Session) -> None:
    """Start to watch anew."""
    session.connection().info.pop(_FAILED_STATEMENT, None)


def has_failed(session: Session) -> bool:
    """Whether a statement failed since then, also one whose savepoint was rolled back."""
    return bool(session.connection().info.get(_FAILED_STATEMENT))


def require_read_committed(level: str) -> None:
    """Raises IsolationRefused for any other isolation level."""
    if level != READ_COMMITTED:
        raise IsolationRefused.of_inbox(level)


def _remember(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info[_FAILED_STATEMENT] = True
