"""the comments and their threads, and the library's tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.environment import tables
from outbox import schema

revision = "comments_0001"
down_revision = None
kind = "expand"


def upgrade() -> None:
    """Create the tables."""
    schema.upgrade(op, to=1, tables=tables())
    op.create_table(
        "threads",
        sa.Column("article_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("known", sa.String(10), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("out_of_order", sa.BigInteger(), nullable=False),
        sa.Column("closed_by", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("article_id", name="pk_threads"),
    )
    op.create_table(
        "comments",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("article_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("author", sa.String(100), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_by", sa.Uuid(as_uuid=False), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_comments"),
    )
    op.create_index("ix_comments_article_id_id", "comments", ["article_id", "id"])


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    op.drop_table("comments")
    op.drop_table("threads")
    schema.downgrade(op, to=0, start=1, tables=tables())
