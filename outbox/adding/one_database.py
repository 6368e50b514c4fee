"""What commits together: the transaction of one session, in one database.

A session with several engines commits in each of them by itself, in no order, and the next commit
may fail after the first one held.
"""

from __future__ import annotations

from sqlalchemy import Connection, TwoPhaseTransaction, text
from sqlalchemy.orm import Session

from outbox.database.shown_url import shown
from outbox.database.sqlalchemy_internals import connections_of
from outbox.errors import SeveralDatabases
from outbox.sqlite import READ_ONLY

_HAS_WRITTEN = text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
_ONLY_READ = text("SET TRANSACTION READ ONLY")


def hold_to(session: Session, own: Connection) -> None:
    """Let the session's transaction write nowhere else than by `own`, from now to its end.

    Raises SeveralDatabases where it has written elsewhere: what it wrote there could be kept
    without what it wrote here, or the other way round. A transaction in two phases may.
    """
    root = session.get_transaction()
    for other in () if root is None else connections_of(root):
        if other is not own:
            let_read(other, own)


def let_read(other: Connection, own: Connection) -> None:
    """Let a connection of the same session read only. Raises as `hold_to` does."""
    if isinstance(other.get_transaction(), TwoPhaseTransaction) and isinstance(
        own.get_transaction(), TwoPhaseTransaction
    ):
        return
    match other.dialect.name:
        case "postgresql":
            has_written = bool(other.scalar(_HAS_WRITTEN))
        case _:
            # No other database tells whether it did. On SQLite a writer says that it is none.
            has_written = not READ_ONLY.items() <= other.get_execution_options().items()
    if has_written:
        raise SeveralDatabases(shown(own.engine.url), shown(other.engine.url))
    if other.dialect.name == "postgresql":
        other.execute(_ONLY_READ)
