"""The tables of the orchestrator, beside those of the library that every service has."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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
)

from outbox.tables import SEQUENCE, UtcDateTime, id_column

SCHEMA_REVISION = "orchestrator_0007"
"""The revision of the database that this code needs."""

metadata = MetaData()

saga = Table(
    "saga",
    metadata,
    id_column("id"),
    Column("shard", SmallInteger, nullable=False),
    Column("name", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("key", String(200), nullable=False),
    Column("status", String(12), nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("originator", String(100), nullable=True),
    Column("trace", String(55), nullable=True),
    Column("active_key", String(200), nullable=True),
    Column("due_at", UtcDateTime, nullable=True),
    Column("parked", Text, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=True),
    id_column("number", nullable=True),
    id_column("start_id", nullable=True),
    Column("begin_at", UtcDateTime, nullable=True),
    Column("fingerprint", String(64), nullable=True),
    PrimaryKeyConstraint("id"),
    # Room for new versions of a row beside the old ones: most updates then touch no index.
    postgresql_with={"fillfactor": 60},
)
"""The runs. `state` and `document` are JSON, see `records`; `revision` grows with every write and
guards it; `entries` counts the history. `active_key` is the key where the definition wants one
active run for it. `due_at` is no later than the earliest timer. `parked` says why a run cannot be
worked on by this code. `trace` is the W3C traceparent that its start came with; without one, it
follows from the id. `number` tells its age, and is made when it begins; without one, the id does.
`start_id` is the message that asked for it, where one did. `begin_at` is when a run that has not
begun is to begin; `fingerprint` is that of its start."""

_is_active = saga.c.active_key.is_not(None)
Index(
    "saga_active",
    saga.c.name,
    saga.c.active_key,
    unique=True,
    postgresql_where=_is_active,
    sqlite_where=_is_active,
)
_is_due = saga.c.due_at.is_not(None)
Index("saga_due", saga.c.shard, saga.c.due_at, postgresql_where=_is_due, sqlite_where=_is_due)
_is_live = saga.c.ended_at.is_(None)
HAS_BEGUN = _is_live & saga.c.begin_at.is_(None)
"""The runs that have begun and not ended."""
Index("saga_begun", saga.c.id, postgresql_where=HAS_BEGUN, sqlite_where=HAS_BEGUN)
Index("saga_live_number", saga.c.number, postgresql_where=_is_live, sqlite_where=_is_live)
Index("saga_by_status", saga.c.status, saga.c.id)
Index("saga_by_name", saga.c.name, saga.c.id)
Index("saga_by_key", saga.c.key, saga.c.id)

saga_history = Table(
    "saga_history",
    metadata,
    id_column("saga_id"),
    Column("number", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("happening", String(20), nullable=False),
    Column("detail", Text, nullable=False),
    Column("step", String(100), nullable=True),
    id_column("command_id", nullable=True),
    Column("actor", Text, nullable=True),
    PrimaryKeyConstraint("saga_id", "number"),
)
"""What happened to each run, numbered from 1."""

saga_alias = Table(
    "saga_alias",
    metadata,
    id_column("id"),
    id_column("saga_id", nullable=True),
    Column("originator", String(100), nullable=True),
    Column("trace", String(55), nullable=True),
    Column("reason", Text, nullable=True),
    Column("made_at", UtcDateTime, nullable=False),
    id_column("start_id", nullable=True),
    Column("fingerprint", String(64), nullable=True),
    PrimaryKeyConstraint("id"),
    Index("saga_alias_saga_id", "saga_id"),
)
"""Starts that began no run of their own: another run was active for their key (`saga_id`), or they
were refused (`reason`). `start_id` is the message that asked, `fingerprint` that of the start."""

saga_start_key = Table(
    "saga_start_key",
    metadata,
    Column("name", String(100), nullable=False),
    Column("key", String(200), nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
    id_column("saga_id"),
    PrimaryKeyConstraint("name", "key"),
)
"""Idempotency keys of starts, each with what was asked for and the run that it began."""

saga_signal = Table(
    "saga_signal",
    metadata,
    Column("seq", SEQUENCE, Identity(), nullable=False, autoincrement=True),
    Column("shard", SmallInteger, nullable=False),
    id_column("saga_id"),
    Column("kind", String(20), nullable=False),
    Column("payload", Text, nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("answer", Text, nullable=True),
    id_column("message_id", nullable=True),
    PrimaryKeyConstraint("seq"),
    Index("saga_signal_queue", "shard", "seq"),
    sqlite_autoincrement=True,
)
"""What was told to a run and is not yet applied. Any node adds rows; the one that owns the shard
applies and removes them, or puts an `answer` there where a request waits for one. `message_id` is
the message that a start came by."""

saga_batch = Table(
    "saga_batch",
    metadata,
    id_column("id"),
    Column("made_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id"),
)
"""One row for each group commit, by which its outcome can be found out."""

saga_silence = Table(
    "saga_silence",
    metadata,
    Column("owner", String(100), nullable=False),
    Column("destination", String(100), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("owner", "destination"),
)
"""The participants that give a node no answer: `owner` is the node, by the name of its leases.
`deliveries` failed in a row, the first of them at `since`, the last for that `reason`; the next is
tried at `next_at`."""

saga_definition = Table(
    "saga_definition",
    metadata,
    Column("name", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("name", "version"),
)
"""The shape that each version of a definition had when it was first run here."""

saga_token = Table(
    "saga_token",
    metadata,
    Column("name", String(100), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("role", String(12), nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
    PrimaryKeyConstraint("name"),
    Index("saga_token_digest", "digest", unique=True),
)
"""The tokens of people and programs: the SHA-256 of each, never the token itself. A name stays
taken, so that it always means the same one."""

saga_session = Table(
    "saga_session",
    metadata,
    Column("digest", LargeBinary(32), nullable=False),
    Column("token", String(100), nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("digest"),
)
"""The console's sessions: the SHA-256 of each cookie, and the name of the token that it was traded
for. One that has ended has no row."""
