"""Version 11 of an orchestrator's tables: histories that are removed before their runs."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.column_types import UtcDateTime
from outbox.database.schema.operations import TableOperations

_HAS_LINES = sa.text("ended_at IS NOT NULL AND history_removed_at IS NULL")


def upgrade(op: TableOperations) -> None:
    """Add the columns, which older code leaves empty, and the indexes: that of signals is for the
    question whether an ended run has any."""
    op.add_column("saga", sa.Column("history_removed_at", UtcDateTime, nullable=True))
    op.add_column("saga", sa.Column("history_archive_id", sa.Uuid(as_uuid=False), nullable=True))
    op.create_index(
        "saga_with_history",
        "saga",
        ["status", "name", "history_removed_at", "ended_at"],
        postgresql_where=_HAS_LINES,
        sqlite_where=_HAS_LINES,
    )
    op.create_index("saga_signal_saga_id", "saga_signal", ["saga_id"])


def downgrade(op: TableOperations) -> None:
    """Drop them; the older code shows a history that was removed as an empty one."""
    op.drop_index("saga_signal_saga_id", "saga_signal")
    op.drop_index("saga_with_history", "saga")
    for name in ("history_archive_id", "history_removed_at"):
        op.drop_column("saga", name)
