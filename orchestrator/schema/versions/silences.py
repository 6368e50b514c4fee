"""Version 5 of an orchestrator's tables: the participants that give no answer."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations


def upgrade(op: TableOperations) -> None:
    """Create the table; a node of older code tells nothing there."""
    op.create_table(
        "saga_silence",
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("destination", sa.String(100), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "destination"),
    )


def downgrade(op: TableOperations) -> None:
    """Drop the table; what it says is told anew."""
    op.drop_table("saga_silence")
