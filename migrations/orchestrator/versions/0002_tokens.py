"""the tokens of people and programs, and the console's sessions"""

from __future__ import annotations

import sqlalchemy as sa

from migrations.environment import own_tables

revision = "orchestrator_0002"
down_revision = "orchestrator_0001"
kind = "expand"


def upgrade() -> None:
    """Create the tables."""
    op = own_tables()
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


def downgrade() -> None:
    """Drop the tables: all tokens and sessions end."""
    op = own_tables()
    op.drop_table("saga_session")
    op.drop_table("saga_token")
