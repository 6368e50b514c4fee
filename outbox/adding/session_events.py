"""Listeners that tie staged messages to a session's transaction.

Messages wait in a `Staging` until the commit, so that the insert comes last, after the rows that it
is about were locked. On the way there they follow every savepoint of the session;
`connection_events` has those of its plain connection.

The order of events in a commit: `before_commit` (also at the release of a savepoint), flushes,
the engine's `commit`, COMMIT itself, `after_commit`.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from outbox.adding import connection_events, one_database
from outbox.adding.insert import inserting, refuse_autocommit, write
from outbox.adding.staging import Mark, Staged, Staging
from outbox.coordination.bell import Bell
from outbox.crashpoints import crashpoint
from outbox.database.sqlalchemy_internals import (
    connections_of,
    in_greenlet,
    session_options,
)
from outbox.errors import MessagesLeftBehind, OutboxError
from outbox.tables import Tables

_STAGING = "sagabox_staging"
_MAX_ROUNDS = 100
"""As often as SQLAlchemy itself flushes within a commit before it gives up."""


def listen(sessions: type[Session]) -> None:
    """Follow the transactions of all sessions of this class."""
    for name, listener in _SESSION_EVENTS.items():
        event.listen(sessions, name, listener)


def staging_of(session: Session) -> Staging | None:
    """The staging of the session's transaction, if it has added anything."""
    staging: Staging | None = session.info.get(_STAGING)
    return staging


def stage(session: Session, message: Staged, *, tables: Tables, ordered: bool, bell: Bell) -> None:
    """Add the message to the session's transaction, which must be open.

    It is inserted at the commit, or at once where that is under way.
    """
    staging, engine = _followed(session, tables)
    staging.ordered, staging.bell = ordered, bell
    if staging.is_closing and engine.dialect.is_async and not in_greenlet():
        # A commit runs in a greenlet, so that one has failed, and the transaction goes on.
        staging.is_closing = False
    mark = staging.mark()
    staging.messages.append(message)
    if staging.is_closing:
        try:
            one_database.hold_to(session, _own(session, staging))
            _drain(session, staging)
        except BaseException:
            staging.cut(mark)
            raise


def _followed(session: Session, tables: Tables) -> tuple[Staging, Engine]:
    """The staging of the session's transaction, and the engine that its messages go to."""
    staging = _staging(session)
    if staging.engine is None:
        staging.engine = _open(session, staging, tables)
    staging.tables = tables
    return staging, staging.engine


def _open(session: Session, staging: Staging, tables: Tables) -> Engine:
    """Follow what the session's transaction holds by now. Returns where its messages will go."""
    try:
        bind = session.get_bind(clause=inserting(tables.outbox))
    except UnboundExecutionError as error:
        raise OutboxError(
            "the session has no engine for the outbox table",
            next_step="bind that table to the engine of the tables that the messages are about: "
            "sessionmaker(binds={..., tables.outbox: engine}), of your outbox.Tables()",
        ) from error
    refuse_autocommit(bind, session_options(session))
    root = session.get_transaction()
    for connection in () if root is None else connections_of(root):
        if connection.engine is bind.engine:
            refuse_autocommit(connection)
            connection_events.watch(connection, staging)
    if isinstance(bind, Connection):
        connection_events.watch(bind, staging)
    # Savepoints that began before the first message: a rollback to one leaves nothing.
    savepoint = session.get_nested_transaction()
    while savepoint is not None:
        if savepoint.nested:
            staging.begin_savepoint(savepoint, Mark())
        savepoint = savepoint.parent
    return bind.engine


def hold_an_answer(session: Session, tables: Tables) -> None:
    """Note that the session's transaction answers a command, so that its commit must be whole: it
    raises SeveralDatabases where the session wrote to another database than the library's. For
    sessions that `listen` knows."""
    if event.contains(type(session), "before_commit", _before_commit):
        staging, _engine = _followed(session, tables)
        staging.holds_an_answer = True


def _staging(session: Session) -> Staging:
    staging = staging_of(session)
    if staging is None:
        staging = session.info[_STAGING] = Staging()
    return staging


def _drain(session: Session, staging: Staging) -> None:
    pending = staging.pending
    assert staging.tables is not None, "a message was staged"
    write(_own(session, staging), staging.tables, pending, ordered=staging.ordered)
    staging.wrote(len(pending))


def _own(session: Session, staging: Staging) -> Connection:
    assert staging.tables is not None, "a message was staged, or an answer"
    return session.connection(bind_arguments={"clause": inserting(staging.tables.outbox)})


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
    if staging.must_be_whole:
        one_database.hold_to(session, _own(session, staging))
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
        raise connection_events.left_behind([staging])
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
            connection_events.forget(staging)


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    staging = staging_of(session)
    if staging is None:
        return
    if connection.engine is staging.engine:
        connection_events.watch(connection, staging)
    elif staging.is_closing and staging.must_be_whole:
        # Now the session gives no connection; its transaction knows those that it has.
        root = session.get_transaction() or transaction
        own = next(each for each in connections_of(root) if each.engine is staging.engine)
        one_database.let_read(connection, own)


_SESSION_EVENTS: dict[str, Callable[..., None]] = {
    "before_commit": _before_commit,
    "after_commit": _after_commit,
    "after_rollback": _after_rollback,
    "after_transaction_create": _after_transaction_create,
    "after_transaction_end": _after_transaction_end,
    "after_begin": _after_begin,
}
