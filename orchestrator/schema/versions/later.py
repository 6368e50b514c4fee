"""Version 6 of an orchestrator's tables: runs that begin later."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.column_types import UtcDateTime
from outbox.database.schema.operations import TableOperations

_IS_LIVE = sa.text("ended_at IS NULL")
_HAS_BEGUN = sa.text("ended_at IS NULL AND begin_at IS NULL")


def upgrade(op: TableOperations) -> None:
    """Add the columns; the starts that are there already have no fingerprint. The older code finds
    runs that live by their numbers' index as well. Runs that were scheduled before a way back to it
    are due when they are to begin."""
    op.add_column("saga", sa.Column("begin_at", UtcDateTime, nullable=True))
    for table in ("saga", "saga_alias"):
        op.add_column(table, sa.Column("fingerprint", sa.String(64), nullable=True))
    op.execute(
        f"UPDATE {op.in_sql('saga')} SET begin_at = COALESCE(due_at, created_at) "
        "WHERE status = 'SCHEDULED'"
    )
    op.create_index(
        "saga_begun", "saga", ["id"], postgresql_where=_HAS_BEGUN, sqlite_where=_HAS_BEGUN
    )
    op.drop_index("saga_live", "saga")


def downgrade(op: TableOperations) -> None:
    """Drop the columns; the older code parks a run that has not begun."""
    op.create_index("saga_live", "saga", ["id"], postgresql_where=_IS_LIVE, sqlite_where=_IS_LIVE)
    op.drop_index("saga_begun", "saga")
    for table in ("saga_alias", "saga"):
        op.drop_column(table, "fingerprint")
    op.drop_column("saga", "begin_at")
