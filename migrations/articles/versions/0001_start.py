"""the articles, and the library's tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.environment import tables
from outbox import schema

revision = "articles_0001"
down_revision = None
kind = "expand"


def upgrade() -> None:
    """Create the tables."""
    schema.upgrade(op, to=1, tables=tables())
    op.create_table(
        "articles",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("author", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hidden_by", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("deletion_saga", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("legal_hold", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_articles"),
    )
    _partial_index("ix_articles_id", ["id"], "deleted_at IS NULL")
    _partial_index("ix_articles_author_id", ["author", "id"], "deleted_at IS NULL")
    _partial_index("ix_articles_deletion_saga", ["deletion_saga"], "deletion_saga IS NOT NULL")


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    op.drop_table("articles")
    schema.downgrade(op, to=0, start=1, tables=tables())


def _partial_index(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "articles", columns, postgresql_where=where, sqlite_where=where)
