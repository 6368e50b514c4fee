"""the participants that give a node no answer"""

from __future__ import annotations

import sqlalchemy as sa

from migrations.environment import own_tables

revision = "orchestrator_0005"
down_revision = "orchestrator_0004"
kind = "expand"


def upgrade() -> None:
    """Create the table; a node of older code tells nothing there."""
    op = own_tables()
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


def downgrade() -> None:
    """Drop the table; what it says is told anew."""
    op = own_tables()
    op.drop_table("saga_silence")
