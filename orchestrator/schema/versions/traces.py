"""Version 3 of an orchestrator's tables: the traces of runs."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations


def upgrade(op: TableOperations) -> None:
    """Add the columns; what is there already has no trace of its own."""
    for table in ("saga", "saga_alias"):
        op.add_column(table, sa.Column("trace", sa.String(55), nullable=True))


def downgrade(op: TableOperations) -> None:
    """Drop the columns; runs go on in the traces that follow from their ids."""
    for table in ("saga", "saga_alias"):
        op.drop_column(table, "trace")
