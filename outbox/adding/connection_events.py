"""Listeners that tie staged messages to a connection's savepoints and transaction.

A session gets no events for what the caller does with its plain connection: savepoints made there,
a commit behind the session's back, the end of a transaction that it has only joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, event

from outbox.adding.staging import Mark, Staging
from outbox.database.sqlalchemy_internals import next_savepoint
from outbox.errors import MessagesLeftBehind


class _Watch:
    """The stagings whose messages a connection's transaction will commit, and the savepoints of
    that connection, oldest first, each with the marks that it left in them."""

    def __init__(self) -> None:
        self.stagings: list[Staging] = []
        self.savepoints: list[tuple[str, dict[Staging, Mark]]] = []


# Weak, since a session that the caller forgot to close must still give its connection back.
_watches: WeakKeyDictionary[Connection, _Watch] = WeakKeyDictionary()
_connections: WeakKeyDictionary[Staging, WeakSet[Connection]] = WeakKeyDictionary()


def watch(connection: Connection, staging: Staging) -> None:
    """Let the staging follow the connection's transaction."""
    watched = _watches.get(connection)
    if watched is None:
        watched = _watches[connection] = _Watch()
        _listen_to(connection.engine)
    if staging not in watched.stagings:
        watched.stagings.append(staging)
        _connections.setdefault(staging, WeakSet()).add(connection)


def forget(staging: Staging) -> None:
    """Note that the session's transaction is over.

    Where it was neither committed nor rolled back (a session closed on a connection that the caller
    still uses), its messages stay, and stop that connection's commit.
    """
    staging.is_over = True
    for connection in _connections.pop(staging, ()):
        if not (staging.has_pending and connection.in_transaction()):
            watched = _watches[connection]
            watched.stagings.remove(staging)
            if not watched.stagings:
                del _watches[connection]


def _listen_to(engine: Engine) -> None:
    if not event.contains(engine, "commit", _at_commit):
        for name, listener in _ENGINE_EVENTS.items():
            event.listen(engine, name, listener)


def _behind(connection: Connection) -> Sequence[Staging]:
    watched = _watches.get(connection)
    return [] if watched is None else [each for each in watched.stagings if each.has_pending]


def _at_commit(connection: Connection) -> None:
    if behind := _behind(connection):
        error = left_behind(behind)
        # SQLAlchemy takes a transaction whose commit failed for one that the database has ended,
        # and sends no ROLLBACK: the next transaction would commit what this one wrote.
        connection.dialect.do_rollback(connection.connection)
        _at_rollback(connection)
        raise error


def _at_prepare(connection: Connection, _: Any) -> None:
    if behind := _behind(connection):
        raise left_behind(behind)


def _at_rollback(connection: Connection, *_: Any) -> None:
    watched = _watches.get(connection)
    if watched is not None:
        for staging in watched.stagings:
            staging.cut(Mark())
        watched.savepoints.clear()
        watched.stagings = [staging for staging in watched.stagings if not staging.is_over]
        if not watched.stagings:
            del _watches[connection]


def _at_savepoint(connection: Connection, name: str | None) -> None:
    watched = _watches.get(connection)
    if watched is not None:
        marks = {staging: staging.mark() for staging in watched.stagings}
        watched.savepoints.append((name or next_savepoint(connection), marks))


def _at_rollback_to_savepoint(connection: Connection, name: str, _: Any) -> None:
    watched = _watches.get(connection)
    if watched is not None:
        marks = _pop_savepoint(watched, name)
        for staging in watched.stagings:
            # One that left no mark came later, so all of it is within the savepoint.
            staging.cut(marks.get(staging, Mark()))


def _at_release_of_savepoint(connection: Connection, name: str, _: Any) -> None:
    watched = _watches.get(connection)
    if watched is not None:
        _pop_savepoint(watched, name)


def _pop_savepoint(watched: _Watch, name: str) -> dict[Staging, Mark]:
    """Remove the savepoint, and those within it. An unknown savepoint is older than the watch."""
    while watched.savepoints:
        popped, marks = watched.savepoints.pop()
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


def left_behind(stagings: Sequence[Staging]) -> MessagesLeftBehind:
    """The error that names the pending messages."""
    pending = [message for staging in stagings for message in staging.pending]
    names = sorted({message.message_class.__name__ for message in pending})
    return MessagesLeftBehind(
        f"the transaction would commit without {len(pending)} of the messages that were added in "
        f"it ({', '.join(names)})",
        next_step="commit by the session that they were added to, not by its connection",
    )
