"""Version 2 of an orchestrator's tables: tokens and sessions."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations


def upgrade(op: TableOperations) -> None:
    """Create the tables."""
    op.create_table(
        "saga_token",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("role", sa.String(12), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("saga_token_digest", "saga_token", ["digest"], unique=True)
    op.create_table(
        "saga_session",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("token", sa.String(100), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )


def downgrade(op: TableOperations) -> None:
    """Drop the tables: all tokens and sessions end."""
    op.drop_table("saga_session")
    op.drop_table("saga_token")
