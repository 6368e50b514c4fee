"""Version 4 of an orchestrator's tables: the numbers of runs."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations

_ADDED = (
    ("saga", "number"),
    ("saga", "start_id"),
    ("saga_alias", "start_id"),
    ("saga_signal", "message_id"),
)


def upgrade(op: TableOperations) -> None:
    """Add the columns; the age of a run that is there already is told by its id."""
    for table, name in _ADDED:
        op.add_column(table, sa.Column(name, sa.Uuid(as_uuid=False), nullable=True))
    is_live = sa.text("ended_at IS NULL")
    op.create_index(
        "saga_live_number", "saga", ["number"], postgresql_where=is_live, sqlite_where=is_live
    )


def downgrade(op: TableOperations) -> None:
    """Drop the columns; the age of every run is told by its id."""
    op.drop_index("saga_live_number", "saga")
    for table, name in reversed(_ADDED):
        op.drop_column(table, name)
