"""Version 1 of an orchestrator's tables: the runs of sagas."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations


def upgrade(op: TableOperations) -> None:
    """Create the tables."""
    op.create_table(
        "saga",
        _id("id"),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("originator", sa.String(100), nullable=True),
        sa.Column("active_key", sa.String(200), nullable=True),
        _time("due_at", nullable=True),
        sa.Column("parked", sa.Text(), nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _time("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        storage={"fillfactor": 60},
    )
    _partial_index(op, "saga_active", ["name", "active_key"], "active_key IS NOT NULL", unique=True)
    _partial_index(op, "saga_due", ["shard", "due_at"], "due_at IS NOT NULL")
    _partial_index(op, "saga_live", ["id"], "ended_at IS NULL")
    op.create_index("saga_by_status", "saga", ["status", "id"])
    op.create_index("saga_by_name", "saga", ["name", "id"])
    op.create_index("saga_by_key", "saga", ["key", "id"])
    op.create_table(
        "saga_history",
        _id("saga_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        _time("at"),
        sa.Column("happening", sa.String(20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("step", sa.String(100), nullable=True),
        _id("command_id", nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("saga_id", "number"),
    )
    op.create_table(
        "saga_alias",
        _id("id"),
        _id("saga_id", nullable=True),
        sa.Column("originator", sa.String(100), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        _time("made_at"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("saga_alias_saga_id", "saga_alias", ["saga_id"])
    op.create_table(
        "saga_start_key",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        _id("saga_id"),
        sa.PrimaryKeyConstraint("name", "key"),
    )
    op.create_table(
        "saga_signal",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(),
            nullable=False,
            autoincrement=True,
        ),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        _id("saga_id"),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        _time("made_at"),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("saga_signal_queue", "saga_signal", ["shard", "seq"])
    op.create_table("saga_batch", _id("id"), _time("made_at"), sa.PrimaryKeyConstraint("id"))
    op.create_table(
        "saga_definition",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        _time("seen_at"),
        sa.PrimaryKeyConstraint("name", "version"),
    )


def downgrade(op: TableOperations) -> None:
    """Drop the tables, with all that is in them."""
    for table in (
        "saga_definition",
        "saga_batch",
        "saga_signal",
        "saga_start_key",
        "saga_alias",
        "saga_history",
        "saga",
    ):
        op.drop_table(table)


def _id(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Uuid(as_uuid=False), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _partial_index(
    op: TableOperations, name: str, columns: list[str], condition: str, *, unique: bool = False
) -> None:
    where = sa.text(condition)
    op.create_index(
        name, "saga", columns, unique=unique, postgresql_where=where, sqlite_where=where
    )
