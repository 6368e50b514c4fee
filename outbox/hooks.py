"""What ties staged messages to a transaction: listeners on sessions and on their engines.

Messages wait in a `Staging` until the commit, so that the insert comes last, after the rows that
it is about were locked. On the way there they follow every savepoint: those of the session, and
those of its plain connection, which the session does not hear of.

The order of events in a commit: `before_commit` (also at the release of a savepoint), flushes,
the engine's `commit`, COMMIT itself, `after_commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util.concurrency import in_greenlet

from outbox.bell import Bell
from outbox.crashpoints import crashpoint
from outbox.errors import MessagesLeftBehind, OutboxError
from outbox.staging import Mark, Staged, Staging
from outbox.writing import INSERT, refuse_autocommit, write

_STAGING = "sagabox_staging"
_MAX_ROUNDS = 100
"""As often as SQLAlchemy itself flushes within a commit before it gives up."""


class _Watch:
    """The stagings whose messages a connection's transaction will commit, and the savepoints of
    that connection, oldest first, each with the marks that it left in them."""

    def __init__(self) -> None:
        self.stagings: list[Staging] = []
        self.savepoints: list[tuple[str, dict[Staging, Mark]]] = []


_watches: WeakKeyDictionary[Connection, _Watch] = WeakKeyDictionary()


def listen(sessions: type[Session]) -> None:
    """Follow the transactions of all sessions of this class."""
    for name, listener in _SESSION_EVENTS.items():
        event.listen(sessions, name, listener)


def staging_of(session: Session) -> Staging | None:
    """What the session's transaction has added, if anything."""
    staging: Staging | None = session.info.get(_STAGING)
    return staging


def stage(session: Session, message: Staged, *, ordered: bool, bell: Bell) -> None:
    """Add the message to the session's transaction, which must be open.

    It is inserted at the commit, or at once where that is under way.
    """
    staging = _staging(session)
    if staging.engine is None:
        staging.engine = _open(session, staging)
    staging.ordered, staging.bell = ordered, bell
    if staging.is_closing and staging.engine.dialect.is_async and not in_greenlet():
        # A commit runs in a greenlet, so that one has failed, and the transaction goes on.
        staging.is_closing = False
    mark = staging.mark()
    staging.messages.append(message)
    if staging.is_closing:
        try:
            _drain(session, staging)
        except BaseException:
            staging.cut(mark)
            raise


def _open(session: Session, staging: Staging) -> Engine:
    """Follow what the session's transaction holds by now. Returns where its messages will go."""
    try:
        bind = session.get_bind(clause=INSERT)
    except UnboundExecutionError as error:
        raise OutboxError(
            "the session has no engine for the outbox table",
            next_step="bind that table to the engine of the tables that the messages are about: "
            "sessionmaker(binds={..., outbox.tables.outbox: engine})",
        ) from error
    refuse_autocommit(bind, session.execution_options)
    root = session.get_transaction()
    for connection in [] if root is None else root.connections:
        if connection.engine is bind.engine:
            refuse_autocommit(connection)
            _watch(connection, staging)
    if isinstance(bind, Connection):
        _watch(bind, staging)
    # Savepoints that began before the first message: a rollback to one leaves nothing.
    savepoint = session.get_nested_transaction()
    while savepoint is not None:
        if savepoint.nested:
            staging.begin_savepoint(savepoint, Mark())
        savepoint = savepoint.parent
    return bind.engine


def _staging(session: Session) -> Staging:
    staging = staging_of(session)
    if staging is None:
        staging = session.info[_STAGING] = Staging()
    return staging


def _drain(session: Session, staging: Staging) -> None:
    pending = staging.pending
    connection = session.connection(bind_arguments={"clause": INSERT})
    write(connection, pending, ordered=staging.ordered)
    staging.wrote(len(pending))


# --- Sessions --------------------------------------------------------------------------------


def _before_commit(session: Session) -> None:
    staging = _staging(session)
    savepoint = session.get_nested_transaction()
    if savepoint is not None and staging.announced is not savepoint:
        # Either this savepoint is released, which is no commit, or the whole transaction commits
        # with the savepoint still open. In the second case the savepoint's own release is announced
        # next, before anything is lost.
        staging.announced = savepoint
        return
    staging.is_closing = False
    for _ in range(_MAX_ROUNDS):
        session.flush()
        if session.new or session.dirty or session.deleted:
            continue
        if not staging.has_pending:
            break
        _drain(session, staging)
    else:
        raise MessagesLeftBehind(
            f"each of {_MAX_ROUNDS} flushes within one commit led to further changes or messages",
            next_step="find the listener that changes or adds something at every flush",
        )
    staging.is_closing = True
    if staging.messages:
        crashpoint("outbox: after drain, before commit")


def _after_commit(session: Session) -> None:
    staging = staging_of(session)
    if staging is None:
        return
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        staging.release_savepoint(savepoint)
        return
    if staging.has_pending:
        raise _left_behind([staging])
    if staging.messages and staging.bell is not None:
        crashpoint("outbox: after commit, before bell")
        staging.bell.ring()


def _after_rollback(session: Session) -> None:
    staging = staging_of(session)
    if staging is not None and session.get_nested_transaction() is None:
        staging.cut(Mark())


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    staging = staging_of(session)
    if staging is not None and transaction.nested:
        staging.begin_savepoint(transaction)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        staging = staging_of(session)
        if staging is not None:
            staging.end_savepoint(transaction)
    elif transaction.parent is None:
        staging = session.info.pop(_STAGING, None)
        if staging is not None:
            _forget(staging)


def _after_begin(session: Session, _: SessionTransaction, connection: Connection) -> None:
    staging = staging_of(session)
    if staging is not None and connection.engine is staging.engine:
        _watch(connection, staging)


_SESSION_EVENTS: dict[str, Callable[..., None]] = {
    "before_commit": _before_commit,
    "after_commit": _after_commit,
    "after_rollback": _after_rollback,
    "after_transaction_create": _after_transaction_create,
    "after_transaction_end": _after_transaction_end,
    "after_begin": _after_begin,
}


# --- Connections -----------------------------------------------------------------------------


def _watch(connection: Connection, staging: Staging) -> None:
    watch = _watches.get(connection)
    if watch is None:
        watch = _watches[connection] = _Watch()
        _listen_to(connection.engine)
    if staging not in watch.stagings:
        watch.stagings.append(staging)
        staging.connections.append(connection)


def _forget(staging: Staging) -> None:
    """The session's transaction is over.

    Where it was neither committed nor rolled back (a session that was closed, on a connection of
    somebody else's), its messages stay, and stop that connection's commit.
    """
    staging.is_over = True
    for connection in staging.connections:
        if not (staging.has_pending and connection.in_transaction()):
            watch = _watches[connection]
            watch.stagings.remove(staging)
            if not watch.stagings:
                del _watches[connection]
    staging.connections.clear()


def _listen_to(engine: Engine) -> None:
    if not event.contains(engine, "commit", _at_commit):
        for name, listener in _ENGINE_EVENTS.items():
            event.listen(engine, name, listener)


def _behind(connection: Connection) -> Sequence[Staging]:
    watch = _watches.get(connection)
    return [] if watch is None else [each for each in watch.stagings if each.has_pending]


def _at_commit(connection: Connection) -> None:
    if behind := _behind(connection):
        error = _left_behind(behind)
        # SQLAlchemy takes a transaction whose commit failed for one that the database has ended,
        # and sends no ROLLBACK: the next transaction would commit what this one wrote.
        connection.dialect.do_rollback(connection.connection)
        _at_rollback(connection)
        raise error


def _at_prepare(connection: Connection, _: Any) -> None:
    if behind := _behind(connection):
        raise _left_behind(behind)


def _at_rollback(connection: Connection, *_: Any) -> None:
    watch = _watches.get(connection)
    if watch is not None:
        for staging in watch.stagings:
            staging.cut(Mark())
        watch.savepoints.clear()
        watch.stagings = [staging for staging in watch.stagings if not staging.is_over]
        if not watch.stagings:
            del _watches[connection]


def _at_savepoint(connection: Connection, name: str | None) -> None:
    watch = _watches.get(connection)
    if watch is not None:
        marks = {staging: staging.mark() for staging in watch.stagings}
        watch.savepoints.append((name or _next_savepoint(connection), marks))


def _next_savepoint(connection: Connection) -> str:
    # The event comes before the savepoint gets its name, and nothing public tells it later.
    number: int = connection._Connection__savepoint_seq  # type: ignore[attr-defined]  # is private
    return f"sa_savepoint_{number + 1}"


def _at_rollback_to_savepoint(connection: Connection, name: str, _: Any) -> None:
    watch = _watches.get(connection)
    if watch is not None:
        marks = _pop_savepoint(watch, name)
        for staging in watch.stagings:
            # One that left no mark came later, so all of it is within the savepoint.
            staging.cut(marks.get(staging, Mark()))


def _at_release_of_savepoint(connection: Connection, name: str, _: Any) -> None:
    watch = _watches.get(connection)
    if watch is not None:
        _pop_savepoint(watch, name)


def _pop_savepoint(watch: _Watch, name: str) -> dict[Staging, Mark]:
    """Remove the savepoint, and those within it. One that is unknown is older than the watch."""
    while watch.savepoints:
        popped, marks = watch.savepoints.pop()
        if popped == name:
            return marks
    return {}


_ENGINE_EVENTS: dict[str, Callable[..., None]] = {
    "commit": _at_commit,
    "prepare_twophase": _at_prepare,
    "rollback": _at_rollback,
    "rollback_twophase": _at_rollback,
    "savepoint": _at_savepoint,
    "rollback_savepoint": _at_rollback_to_savepoint,
    "release_savepoint": _at_release_of_savepoint,
}


def _left_behind(stagings: Sequence[Staging]) -> MessagesLeftBehind:
    pending = [message for staging in stagings for message in staging.pending]
    names = sorted({message.message_class.__name__ for message in pending})
    return MessagesLeftBehind(
        f"the transaction would commit without {len(pending)} of the messages that were added in "
        f"it ({', '.join(names)})",
        next_step="commit by the session that they were added to, not by its connection",
    )
