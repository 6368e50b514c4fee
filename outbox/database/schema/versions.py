"""The library's tables, version by version, as they were when each version was released.

Nothing here follows `tables`: a database that was made years ago is brought up by the same steps
that it would have got then. A released version is never edited; a change is a version of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from outbox.database.schema.operations import TableOperations


@dataclass(frozen=True)
class Version:
    """The step from the version before, and back."""

    upgrade: Callable[[TableOperations], None]
    downgrade: Callable[[TableOperations], None]


class _Xid8(sa.types.UserDefinedType[int]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


def _create_1(op: TableOperations) -> None:
    on_postgresql = op.get_context().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True)
    identifier = sa.Uuid(as_uuid=False)

    def message_columns() -> list[sa.Column[Any]]:
        return [
            sa.Column("id", identifier, nullable=False),
            sa.Column("destination", sa.String(100), nullable=False),
            sa.Column("bucket", sa.SmallInteger(), nullable=False),
            sa.Column("aggregatetype", sa.String(100), nullable=False),
            sa.Column("aggregateid", sa.String(200), nullable=False),
            sa.Column("type", sa.String(200), nullable=False),
            sa.Column("payload", sa.Text(), nullable=False),
            sa.Column("headers", sa.Text(), nullable=False),
            sa.Column("occurred_at", time, nullable=False),
        ]

    op.create_table(
        "outbox",
        # First of all columns: PostgreSQL fills them in their order, so that a transaction has its
        # id before it draws `seq`.
        sa.Column(
            "xid",
            _Xid8() if on_postgresql else sa.BigInteger(),
            nullable=False,
            server_default=sa.text("pg_current_xact_id()" if on_postgresql else "0"),
        ),
        sa.Column(
            "seq",
            sa.BigInteger() if on_postgresql else sa.Integer(),
            sa.Identity(),
            nullable=False,
            autoincrement=True,
        ),
        *message_columns(),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
        # Rows live for moments: vacuum by their number, not by a share of a table that is empty
        # one moment and full the next.
        storage={
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 1000,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )
    op.create_index("outbox_queue", "outbox", ["destination", "bucket", "seq"])
    op.create_table(
        "outbox_lease",
        sa.Column("destination", sa.String(100), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("owner", sa.String(100), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", time, nullable=False),
        sa.PrimaryKeyConstraint("destination", "bucket"),
        sa.UniqueConstraint("destination", "bucket", "epoch", name="outbox_lease_fence"),
        storage={"fillfactor": 50},
    )
    op.create_table(
        "outbox_relay",
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("destination", sa.String(100), nullable=False),
        sa.Column("expires_at", time, nullable=False),
        sa.PrimaryKeyConstraint("owner", "destination"),
    )
    op.create_table(
        "outbox_held",
        sa.Column("destination", sa.String(100), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("aggregateid", sa.String(200), nullable=False),
        sa.Column("head_id", identifier, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", time, nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("destination", "bucket", "aggregateid"),
    )
    op.create_table(
        "outbox_parked",
        sa.Column("seq", sa.BigInteger(), nullable=False),
        *message_columns(),
        sa.PrimaryKeyConstraint("destination", "bucket", "seq"),
    )
    op.create_table(
        "outbox_scheduled",
        *message_columns(),
        sa.Column("due_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", "destination"),
    )
    op.create_index("outbox_scheduled_due", "outbox_scheduled", ["due_at"])
    op.create_table(
        "outbox_dead",
        *message_columns(),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("died_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", "destination"),
    )
    op.create_index("outbox_dead_died_at", "outbox_dead", ["died_at"])
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.String(100), nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=True),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("barred_by", identifier, nullable=True),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("saga", identifier, nullable=True),
        sa.Column("received_at", time, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "id"),
    )
    op.create_index("inbox_received_at", "inbox", ["received_at"])
    op.create_table(
        "inbox_watermark",
        sa.Column("consumer", sa.String(100), nullable=False),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("below", identifier, nullable=False),
        sa.Column("except_ids", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "source", "scope"),
    )
    op.create_table(
        "schema_revision",
        sa.Column("revision", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("applied_at", time, nullable=False),
        sa.PrimaryKeyConstraint("revision"),
    )


def _drop_1(op: TableOperations) -> None:
    for table in (
        "schema_revision",
        "inbox_watermark",
        "inbox",
        "outbox_dead",
        "outbox_scheduled",
        "outbox_parked",
        "outbox_held",
        "outbox_relay",
        "outbox_lease",
        "outbox",
    ):
        op.drop_table(table)


def _create_2(op: TableOperations) -> None:
    """Create the columns for ages that stand in no id; the code of version 1 leaves them empty."""
    op.add_column("inbox", sa.Column("saga_number", sa.Uuid(as_uuid=False), nullable=True))
    op.add_column("inbox", sa.Column("due", sa.DateTime(timezone=True), nullable=True))


def _drop_2(op: TableOperations) -> None:
    op.drop_column("inbox", "due")
    op.drop_column("inbox", "saga_number")
    # The code of version 1 would take it for the watermark of a saga.
    op.execute(f"DELETE FROM {op.in_sql('inbox_watermark')} WHERE scope = 'barred'")


def _create_3(op: TableOperations) -> None:
    """Create the table for answers that come later; the code of version 2 has none of them."""
    time = sa.DateTime(timezone=True)
    identifier = sa.Uuid(as_uuid=False)
    op.create_table(
        "inbox_pending",
        sa.Column("consumer", sa.String(100), nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("reply_to", sa.String(100), nullable=True),
        sa.Column("saga", identifier, nullable=True),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("trace", sa.Text(), nullable=True),
        sa.Column("undoes", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("since", time, nullable=False),
        sa.Column("expected_at", time, nullable=True),
        sa.Column("holder", sa.String(100), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("until", time, nullable=True),
        sa.Column("is_in_doubt", sa.Boolean(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("late_reply", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("consumer", "id"),
    )


def _drop_3(op: TableOperations) -> None:
    # The code of version 2 cannot read these states, and must neither run those commands anew nor
    # take them for done.
    inbox = op.in_sql("inbox")
    op.execute(
        f'UPDATE {inbox} SET state = \'ran\', reply = \'{{"outcome": "unknown", "code": "unknown",'
        ' "reason": "it was pending when the database was taken back to an older version"}\''
        " WHERE state = 'pending'"
    )
    op.execute(f"UPDATE {inbox} SET state = 'ran' WHERE state = 'undoing'")
    op.drop_table("inbox_pending")


def _create_4(op: TableOperations) -> None:
    """Create the table that says whose tables these are; the code of version 3 does not ask."""
    op.create_table(
        "outbox_service",
        sa.Column("only", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("only"),
    )


def _drop_4(op: TableOperations) -> None:
    op.drop_table("outbox_service")


def _create_5(op: TableOperations) -> None:
    """Create the table for what a broker brought and could not be handled; the code of version 4
    takes no messages from brokers."""
    on_postgresql = op.get_context().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True)
    identifier = sa.Uuid(as_uuid=False)
    op.create_table(
        "inbox_held",
        sa.Column(
            "seq",
            sa.BigInteger() if on_postgresql else sa.Integer(),
            sa.Identity(),
            nullable=False,
            autoincrement=True,
        ),
        sa.Column("consumer", sa.String(100), nullable=False),
        sa.Column("queue", sa.String(100), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("undo_lane", sa.Boolean(), nullable=False),
        sa.Column("key", sa.String(200), nullable=True),
        sa.Column("message_id", identifier, nullable=True),
        sa.Column("type", sa.String(200), nullable=True),
        sa.Column("source", sa.String(100), nullable=True),
        sa.Column("saga", identifier, nullable=True),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", time, nullable=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("next_at", time, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("held_at", time, nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("consumer", "fingerprint", name="inbox_held_once"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "inbox_held_order",
        "inbox_held",
        ["consumer", "undo_lane", "key", "seq"],
        postgresql_where=sa.text("state <> 'dead'"),
        sqlite_where=sa.text("state <> 'dead'"),
    )
    op.create_index("inbox_held_due", "inbox_held", ["consumer", "next_at"])


def _drop_5(op: TableOperations) -> None:
    op.drop_table("inbox_held")


VERSIONS: tuple[Version, ...] = (
    Version(_create_1, _drop_1),
    Version(_create_2, _drop_2),
    Version(_create_3, _drop_3),
    Version(_create_4, _drop_4),
    Version(_create_5, _drop_5),
)
"""The first is version 1."""
