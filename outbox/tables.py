"""The tables that a service's database gets, in one `MetaData` for Alembic.

A row in `outbox` is an unsent message; sending deletes it, and nothing ever updates it. What does
not go that straight way has a table of its own: held keys, parked, scheduled and dead messages.
Ids and times are text and aware datetimes on both databases.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler, SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator, UserDefinedType

NAMING_CONVENTION: Mapping[str, str] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""The names of the keys and indexes of a service's own tables, for its `MetaData`."""

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also on SQLite, which forgets the zone. Naive values are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; times are stored in UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id; a plain integer elsewhere."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


# Without this a tool that reflects the tables, as Alembic does, is warned of an unknown type.
ischema_names.setdefault("xid8", Xid8)


@compiles(Xid8, "sqlite")
def _xid8_on_sqlite(_type: Xid8, _compiler: DDLCompiler, **_: Any) -> str:
    return "BIGINT"


class CurrentTransactionId(GenericFunction[int]):
    """The id of the running transaction; 0 on SQLite, which has one writer at a time."""

    type = Xid8()
    inherit_cache = True


@compiles(CurrentTransactionId)
def _current_transaction_id(_f: Any, _compiler: SQLCompiler, **_: Any) -> str:
    return "pg_current_xact_id()"


@compiles(CurrentTransactionId, "sqlite")
def _no_transaction_id(_f: Any, _compiler: SQLCompiler, **_: Any) -> str:
    return "0"


def id_column(name: str = "id", *, nullable: bool = False) -> Column[str]:
    """A column for an id, which is text in Python."""
    return Column(name, Uuid(as_uuid=False), nullable=nullable)


SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")
"""The type of a column that the database numbers."""


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


# `xid` stands first: PostgreSQL fills columns in their order, so the transaction has its id before
# it draws `seq`. The relay's low-watermark hint is only right because of that.
outbox = Table(
    "outbox",
    metadata,
    Column("xid", Xid8, nullable=False, server_default=CurrentTransactionId()),
    Column("seq", SEQUENCE, Identity(), nullable=False, autoincrement=True),
    *_message_columns(),
    PrimaryKeyConstraint("seq"),
    Index("outbox_queue", "destination", "bucket", "seq"),
    sqlite_autoincrement=True,
    # Rows live for moments: vacuum by their number, not by a share of a table that is empty one
    # moment and full the next.
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 1000,
        "autovacuum_vacuum_cost_delay": 0,
    },
)
"""Unsent messages. `bucket` is lane * 16 + crc32(key) % 16; `aggregateid` is the key,
`aggregatetype` the owner's word of the type, `headers` the rest of the envelope as JSON."""

outbox_lease = Table(
    "outbox_lease",
    metadata,
    Column("destination", String(100), nullable=False),
    Column("bucket", SmallInteger, nullable=False),
    Column("owner", String(100), nullable=True),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("destination", "bucket"),
    # Makes `epoch` a key column: FOR KEY SHARE on the row then lets a renewal pass and makes a
    # takeover wait.
    UniqueConstraint("destination", "bucket", "epoch", name="outbox_lease_fence"),
    postgresql_with={"fillfactor": 50},
)
"""Which relay owns a bucket, until when, on the database's clock. `epoch` grows with every change
of owner, and when an owner takes its own expired lease again."""

outbox_relay = Table(
    "outbox_relay",
    metadata,
    Column("owner", String(100), nullable=False),
    Column("destination", String(100), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("owner", "destination"),
)
"""The relays that are alive, and what each serves; fair shares of buckets are counted over them."""

outbox_held = Table(
    "outbox_held",
    metadata,
    Column("destination", String(100), nullable=False),
    Column("bucket", SmallInteger, nullable=False),
    Column("aggregateid", String(200), nullable=False),
    id_column("head_id"),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("last_error", Text, nullable=False),
    PrimaryKeyConstraint("destination", "bucket", "aggregateid"),
)
"""Keys that wait: the message `head_id` failed `attempts` times, and its key rests until
`next_at`. The messages themselves stay where they are."""

outbox_parked = Table(
    "outbox_parked",
    metadata,
    Column("seq", BigInteger, nullable=False),
    *_message_columns(),
    PrimaryKeyConstraint("destination", "bucket", "seq"),
)
"""Messages of keys that are held for long, moved out of the hot table; they come back in their
order when the hold ends."""

outbox_scheduled = Table(
    "outbox_scheduled",
    metadata,
    *_message_columns(),
    Column("due_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id", "destination"),
    Index("outbox_scheduled_due", "due_at"),
)
"""Messages that must not leave before `due_at`; they move to `outbox` when it has come."""

outbox_dead = Table(
    "outbox_dead",
    metadata,
    *_message_columns(),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id", "destination"),
    Index("outbox_dead_died_at", "died_at"),
)
"""Dead letters: whole messages, with the reason; redriving one moves it back under its own id."""

inbox = Table(
    "inbox",
    metadata,
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
    Index("inbox_received_at", "received_at"),
)
"""What each consumer has seen. `state` is one of inbox.State; `saga` is set for commands that may
be undone (their correlation id), whose rows are kept as long as that saga lives; `saga_number` is
the number of that saga, and `due` the attribute of the message, where its sender knows them."""

inbox_pending = Table(
    "inbox_pending",
    metadata,
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
"""What is kept of a command whose row in `inbox` is `pending`, or was while its call ran. `undoes`
(JSON) are the ids whose rows are `undoing` because of it. A call to the outside has a `holder`, the
process that makes it, until `until`; `attempt` counts its calls from 1, and is 0 where there is
none; `is_in_doubt` says that an earlier one ended without an answer; `before` (JSON) is what the
call knows from its first transaction. `late_reply` (JSON) is a success that came while it was
undone, or a result that could not be written since `after` failed."""

inbox_watermark = Table(
    "inbox_watermark",
    metadata,
    Column("consumer", String(100), nullable=False),
    Column("source", String(100), nullable=False),
    Column("scope", String(10), nullable=False),
    id_column("below"),
    Column("except_ids", Text, nullable=False),
    PrimaryKeyConstraint("consumer", "source", "scope"),
)
"""How far the inbox has forgotten. Scope `age` (source ''): a message without a saga whose age (its
`due`, else its id) is smaller than `below`, and that is absent, may have been purged. Scope
`barred`: the same for one whose id is, since its undo came first. Scope `saga`: the same for
commands of a saga of that source whose number (else saga id) is smaller than `below` and not in
`except_ids` (JSON). Scope `asked` is no mark: `below` is the last question to that source about its
sagas, and `except_ids` a JSON object, how far its answers came."""

schema_revision = Table(
    "schema_revision",
    metadata,
    Column("revision", String(64), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("applied_at", UtcDateTime, nullable=False),
)
"""The applied revisions with their kind, `expand` or `contract`, so that code can tell whether a
database that is newer than itself is one it can still run on."""
