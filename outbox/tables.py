"""The tables that a service's database gets, in one `MetaData` for Alembic.

A row in `outbox` is an unsent message; sending deletes it, and nothing ever updates it. What does
not go that straight way has a table of its own: held keys, parked, scheduled and dead messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from outbox.database.column_types import (
    SEQUENCE,
    CurrentTransactionId,
    UtcDateTime,
    Xid8,
    id_column,
)
from outbox.database.table_set import TableSet

READING = "consume "
"""What the names of leases begin with by which the readers of a queue share its partitions. No
destination of messages begins so."""
_HOLDS_KEY = text("state <> 'dead'")

NAMING_CONVENTION: Mapping[str, str] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""The names of the keys and indexes of a service's own tables, for its `MetaData`."""


class Tables(TableSet):
    """The library's tables of one installation."""

    def __init__(self, prefix: str = "", schema: str | None = None) -> None:
        super().__init__(prefix, schema)
        self.outbox = _outbox(self)
        self.outbox_lease = _outbox_lease(self)
        self.outbox_relay = _outbox_relay(self)
        self.outbox_held = _outbox_held(self)
        self.outbox_parked = _outbox_parked(self)
        self.outbox_scheduled = _outbox_scheduled(self)
        self.outbox_dead = _outbox_dead(self)
        self.inbox = _inbox(self)
        self.inbox_pending = _inbox_pending(self)
        self.inbox_held = _inbox_held(self)
        self.inbox_watermark = _inbox_watermark(self)
        self.schema_revision = _schema_revision(self)
        self.outbox_service = _outbox_service(self)


def _message_columns() -> list[Column[Any]]:
    """What every table that holds whole messages has; the names are those that Debezium's outbox
    event router reads (`id`, `aggregatetype`, `aggregateid`, `type`, `payload`)."""
    return [
        id_column(),
        Column("destination", String(100), nullable=False),
        Column("bucket", SmallInteger, nullable=False),
        Column("aggregatetype", String(100), nullable=False),
        Column("aggregateid", String(200), nullable=False),
        Column("type", String(200), nullable=False),
        Column("payload", Text, nullable=False),
        Column("headers", Text, nullable=False),
        Column("occurred_at", UtcDateTime, nullable=False),
    ]


def _outbox(tables: Tables) -> Table:
    """Unsent messages. `bucket` is lane * 16 + crc32(key) % 16; `aggregateid` is the key,
    `aggregatetype` the owner's word of the type, `headers` the rest of the envelope as JSON."""
    # `xid` stands first: PostgreSQL fills columns in their order, so the transaction has its id
    # before it draws `seq`. The low-watermark hint of the relay is only right because of that.
    return tables.table(
        "outbox",
        Column("xid", Xid8, nullable=False, server_default=CurrentTransactionId()),
        Column("seq", SEQUENCE, Identity(), nullable=False, autoincrement=True),
        *_message_columns(),
        PrimaryKeyConstraint("seq"),
        tables.index("outbox_queue", "destination", "bucket", "seq"),
        sqlite_autoincrement=True,
        # Rows live for moments: vacuum by their number, not by a share of a table that is empty one
        # moment and full the next.
        storage={
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 1000,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )


def _outbox_lease(tables: Tables) -> Table:
    """Which relay owns a bucket, until when, on the database's clock. `epoch` grows with every
    change of owner, and when an owner takes its own expired lease again."""
    return tables.table(
        "outbox_lease",
        Column("destination", String(100), nullable=False),
        Column("bucket", SmallInteger, nullable=False),
        Column("owner", String(100), nullable=True),
        Column("epoch", BigInteger, nullable=False),
        Column("expires_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("destination", "bucket"),
        # Makes `epoch` a key column: FOR KEY SHARE on the row then lets a renewal pass and makes a
        # takeover wait.
        UniqueConstraint("destination", "bucket", "epoch", name=tables.name("outbox_lease_fence")),
        storage={"fillfactor": 50},
    )


def _outbox_relay(tables: Tables) -> Table:
    """The relays that are alive, and what each serves; fair shares of buckets are counted over
    them."""
    return tables.table(
        "outbox_relay",
        Column("owner", String(100), nullable=False),
        Column("destination", String(100), nullable=False),
        Column("expires_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("owner", "destination"),
    )


def _outbox_held(tables: Tables) -> Table:
    """Keys that wait: the message `head_id` failed `attempts` times, and its key rests until
    `next_at`, or for as long as that is `outbox.lanes.BLOCKED`. The messages themselves stay where
    they are. Buckets below 0 are of the whole destination (`outbox.lanes`), with an empty key: it
    is paused, or gives no answer, since `next_at`."""
    return tables.table(
        "outbox_held",
        Column("destination", String(100), nullable=False),
        Column("bucket", SmallInteger, nullable=False),
        Column("aggregateid", String(200), nullable=False),
        id_column("head_id"),
        Column("attempts", Integer, nullable=False),
        Column("next_at", UtcDateTime, nullable=False),
        Column("last_error", Text, nullable=False),
        PrimaryKeyConstraint("destination", "bucket", "aggregateid"),
    )


def _outbox_parked(tables: Tables) -> Table:
    """Messages of keys that are held for long, moved out of the hot table; they come back in
    their order when the hold ends."""
    return tables.table(
        "outbox_parked",
        Column("seq", BigInteger, nullable=False),
        *_message_columns(),
        PrimaryKeyConstraint("destination", "bucket", "seq"),
    )


def _outbox_scheduled(tables: Tables) -> Table:
    """Messages that must not leave before `due_at`; they move to `outbox` when it has come."""
    return tables.table(
        "outbox_scheduled",
        *_message_columns(),
        Column("due_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("id", "destination"),
        tables.index("outbox_scheduled_due", "due_at"),
    )


def _outbox_dead(tables: Tables) -> Table:
    """Dead letters: whole messages, with the reason; redriving one moves it back under its own
    id."""
    return tables.table(
        "outbox_dead",
        *_message_columns(),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("died_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("id", "destination"),
        tables.index("outbox_dead_died_at", "died_at"),
    )


def _inbox(tables: Tables) -> Table:
    """What each consumer has seen. `state` is one of inbox.State; `saga` is set for commands that
    may be undone (their correlation id), whose rows are kept as long as that saga lives;
    `saga_number` is the number of that saga, and `due` the attribute of the message, where its
    sender knows them."""
    return tables.table(
        "inbox",
        Column("consumer", String(100), nullable=False),
        id_column(),
        Column("state", String(10), nullable=False),
        Column("fingerprint", LargeBinary(32), nullable=True),
        Column("reply", Text, nullable=True),
        id_column("barred_by", nullable=True),
        Column("source", String(100), nullable=False),
        id_column("saga", nullable=True),
        id_column("saga_number", nullable=True),
        Column("due", UtcDateTime, nullable=True),
        Column("received_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("consumer", "id"),
        tables.index("inbox_received_at", "received_at"),
    )


def _inbox_pending(tables: Tables) -> Table:
    """What is kept of a command whose row in `inbox` is `pending`, or was while its call ran.
    `undoes` (JSON) are the ids whose rows are `undoing` because of it. A call to the outside
    has a `holder`, the process that makes it, until `until`; `attempt` counts its calls from
    1, and is 0 where there is none; `is_in_doubt` says that an earlier one ended without an
    answer; `before` (JSON) is what the call knows from its first transaction. `late_reply`
    (JSON) is a success that came while it was undone, or a result that could not be written
    since `after` failed."""
    return tables.table(
        "inbox_pending",
        Column("consumer", String(100), nullable=False),
        id_column(),
        Column("type", String(200), nullable=False),
        Column("source", String(100), nullable=False),
        Column("reply_to", String(100), nullable=True),
        id_column("saga", nullable=True),
        Column("key", String(200), nullable=False),
        Column("trace", Text, nullable=True),
        Column("undoes", Text, nullable=False),
        Column("note", Text, nullable=False),
        Column("since", UtcDateTime, nullable=False),
        Column("expected_at", UtcDateTime, nullable=True),
        Column("holder", String(100), nullable=True),
        Column("attempt", Integer, nullable=False),
        Column("until", UtcDateTime, nullable=True),
        Column("is_in_doubt", Boolean, nullable=False),
        Column("last_error", Text, nullable=True),
        Column("before", Text, nullable=True),
        Column("late_reply", Text, nullable=True),
        PrimaryKeyConstraint("consumer", "id"),
    )


def _inbox_held(tables: Tables) -> Table:
    """Packets from a broker that could not be handled, and the rest of their keys behind them.

    `body` is what the broker had, byte for byte, and `headers` (JSON) came with it. What could be
    read has its key, with `undo_lane` as in `batches.order_key`, its id, type, source, and the
    `saga` whose command it is; for what was never read these are NULL. `fingerprint` lets a packet
    be held once. A copy that runs out does so at `expires_at`.

    `state` is one of held.State. Of each key the first row that waits has a `next_at`, when it is
    tried again; all others have none. `attempts` are its failures; `revision` grows with each
    change of the row.
    """
    return tables.table(
        "inbox_held",
        Column("seq", SEQUENCE, Identity(), nullable=False, autoincrement=True),
        Column("consumer", String(100), nullable=False),
        Column("queue", String(100), nullable=False),
        Column("partition", Integer, nullable=False),
        Column("undo_lane", Boolean, nullable=False),
        Column("key", String(200), nullable=True),
        id_column("message_id", nullable=True),
        Column("type", String(200), nullable=True),
        Column("source", String(100), nullable=True),
        id_column("saga", nullable=True),
        Column("headers", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("fingerprint", LargeBinary(32), nullable=False),
        Column("expires_at", UtcDateTime, nullable=True),
        Column("state", String(10), nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("revision", Integer, nullable=False),
        Column("next_at", UtcDateTime, nullable=True),
        Column("last_error", Text, nullable=False),
        Column("held_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("seq"),
        UniqueConstraint("consumer", "fingerprint", name=tables.name("inbox_held_once")),
        # Without what was given up: a key may have left thousands of such rows behind.
        tables.index(
            "inbox_held_order",
            *("consumer", "undo_lane", "key", "seq"),
            postgresql_where=_HOLDS_KEY,
            sqlite_where=_HOLDS_KEY,
        ),
        tables.index("inbox_held_due", "consumer", "next_at"),
        sqlite_autoincrement=True,
    )


def _inbox_watermark(tables: Tables) -> Table:
    """How far the inbox has forgotten. Scope `age` (source ''): a message without a saga whose
    age (its `due`, else its id) is smaller than `below`, and that is absent, may have been
    purged. Scope `barred`: the same for one whose id is, since its undo came first. Scope
    `saga`: the same for commands of a saga of that source whose number (else saga id) is
    smaller than `below` and not in `except_ids` (JSON). Scope `asked` is no mark: `below` is
    the last question to that source about its sagas, and `except_ids` a JSON object, how far
    its answers came. Scope `restored` is set by an operator after a restore, as `saga` is by a
    purge: no saga of that source below it lives but those in `except_ids`. Scope `databases` is
    no mark either: `except_ids` is a JSON object of the databases that spoke under the name of
    the source, each with its first and last time, and `below` the one that spoke last."""
    return tables.table(
        "inbox_watermark",
        Column("consumer", String(100), nullable=False),
        Column("source", String(100), nullable=False),
        Column("scope", String(10), nullable=False),
        id_column("below"),
        Column("except_ids", Text, nullable=False),
        PrimaryKeyConstraint("consumer", "source", "scope"),
    )


def _schema_revision(tables: Tables) -> Table:
    """The applied revisions with their kind, `expand` or `contract`, so that code can tell
    whether a database that is newer than itself is one it can still run on."""
    return tables.table(
        "schema_revision",
        Column("revision", String(64), primary_key=True),
        Column("kind", String(10), nullable=False),
        Column("applied_at", UtcDateTime, nullable=False),
    )


def _outbox_service(tables: TableSet) -> Table:
    """The service that the tables belong to: one row, whose `only` is 1, from its first start."""
    return tables.table(
        "outbox_service",
        Column("only", SmallInteger, primary_key=True, autoincrement=False),
        Column("name", String(100), nullable=False),
        Column("since", UtcDateTime, nullable=False),
    )


@cache
def tables_named(prefix: str, schema: str | None) -> Tables:
    """The tables of the installation with these names, always the same ones. Raises OutboxError."""
    return Tables(prefix, schema)


DEFAULT_TABLES = tables_named("", None)
"""The tables under their plain names."""

metadata = DEFAULT_TABLES.metadata
outbox = DEFAULT_TABLES.outbox
outbox_lease = DEFAULT_TABLES.outbox_lease
outbox_relay = DEFAULT_TABLES.outbox_relay
outbox_held = DEFAULT_TABLES.outbox_held
outbox_parked = DEFAULT_TABLES.outbox_parked
outbox_scheduled = DEFAULT_TABLES.outbox_scheduled
outbox_dead = DEFAULT_TABLES.outbox_dead
inbox = DEFAULT_TABLES.inbox
inbox_pending = DEFAULT_TABLES.inbox_pending
inbox_held = DEFAULT_TABLES.inbox_held
inbox_watermark = DEFAULT_TABLES.inbox_watermark
schema_revision = DEFAULT_TABLES.schema_revision
outbox_service = DEFAULT_TABLES.outbox_service
