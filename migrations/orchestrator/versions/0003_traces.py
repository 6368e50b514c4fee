"""the traces that runs and other names of runs belong to"""

from __future__ import annotations

import sqlalchemy as sa

from migrations.environment import own_tables

revision = "orchestrator_0003"
down_revision = "orchestrator_0002"
kind = "expand"


def upgrade() -> None:
    """Add the columns; what is there already has no trace of its own."""
    op = own_tables()
    for table in ("saga", "saga_alias"):
        op.add_column(table, sa.Column("trace", sa.String(55), nullable=True))


def downgrade() -> None:
    """Drop the columns; runs go on in the traces that follow from their ids."""
    op = own_tables()
    for table in ("saga", "saga_alias"):
        op.drop_column(table, "trace")
