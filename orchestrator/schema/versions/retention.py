"""Version 10 of an orchestrator's tables: runs that were removed, and where they are archived."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations

_HAS_ENDED = sa.text("ended_at IS NOT NULL")
_IS_TOMBSTONE = sa.text("ended IS NOT NULL")
_IS_REFUSED = sa.text("saga_id IS NULL")


def upgrade(op: TableOperations) -> None:
    """Add the columns, tables and indexes; older code removes nothing, and reads no tombstone."""
    for column in (
        sa.Column("ended", sa.String(12), nullable=True),
        sa.Column("name", sa.String(100), nullable=True),
        sa.Column("archive_id", sa.Uuid(as_uuid=False), nullable=True),
    ):
        op.add_column("saga_alias", column)
    op.create_index(
        "saga_ended",
        "saga",
        ["status", "name", "ended_at"],
        postgresql_where=_HAS_ENDED,
        sqlite_where=_HAS_ENDED,
    )
    op.create_index(
        "saga_alias_ended",
        "saga_alias",
        ["id"],
        postgresql_where=_IS_TOMBSTONE,
        sqlite_where=_IS_TOMBSTONE,
    )
    op.create_index(
        "saga_alias_refused",
        "saga_alias",
        ["made_at"],
        postgresql_where=_IS_REFUSED,
        sqlite_where=_IS_REFUSED,
    )
    op.create_index("saga_start_key_saga_id", "saga_start_key", ["saga_id"])
    op.create_table(
        "saga_archive",
        _id("id"),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        _id("first_id"),
        _id("last_id"),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("left_out", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("saga_archive_range", "saga_archive", ["kind", "first_id", "last_id"])
    op.create_index("saga_archive_state", "saga_archive", ["state"])
    op.create_table(
        "saga_retention",
        sa.Column("only", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(100), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        _id("below", nullable=True),
        sa.Column("round_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("oldest_at", sa.DateTime(timezone=True), nullable=True),
    )


def downgrade(op: TableOperations) -> None:
    """Drop them, with all that is known of removed runs: the older code takes their ids for new
    ones."""
    op.drop_table("saga_retention")
    op.drop_table("saga_archive")
    op.drop_index("saga_start_key_saga_id", "saga_start_key")
    for index in ("saga_alias_refused", "saga_alias_ended"):
        op.drop_index(index, "saga_alias")
    op.drop_index("saga_ended", "saga")
    op.execute(f"DELETE FROM {op.in_sql('saga_alias')} WHERE ended IS NOT NULL")
    for name in ("archive_id", "name", "ended"):
        op.drop_column("saga_alias", name)


def _id(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Uuid(as_uuid=False), nullable=nullable)
