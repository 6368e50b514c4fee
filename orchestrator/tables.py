"""The tables of the orchestrator, beside those of the library that every service has."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Identity,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
)

from outbox.database.column_types import SEQUENCE, UtcDateTime, id_column
from outbox.database.table_set import TableSet
from outbox.tables import DEFAULT_TABLES, Tables

SCHEMA_REVISION = "orchestrator_0011"
"""The revision of the database that this code needs."""


class SagaTables(TableSet):
    """The tables of an orchestrator, beside those for its `messaging`."""

    def __init__(self, messaging: Tables) -> None:
        super().__init__(messaging.prefix, messaging.schema)
        self.messaging = messaging
        self.saga = _saga(self)
        _index_runs(self, self.saga)
        self.saga_history = _saga_history(self)
        self.saga_alias = _saga_alias(self)
        self.saga_start_key = _saga_start_key(self)
        self.saga_signal = _saga_signal(self)
        self.saga_batch = _saga_batch(self)
        self.saga_silence = _saga_silence(self)
        self.saga_definition = _saga_definition(self)
        self.saga_token = _saga_token(self)
        self.saga_session = _saga_session(self)
        self.saga_archive = _saga_archive(self)
        self.saga_retention = _saga_retention(self)
        self.has_begun = self.saga.c.ended_at.is_(None) & self.saga.c.begin_at.is_(None)
        """The runs that have begun and not ended."""


def _saga(tables: TableSet) -> Table:
    """The runs. `state` and `document` are JSON, see `records`; `revision` grows with every write
    and guards it; `entries` counts the history. `active_key` is the key where the definition
    wants one active run for it. `due_at` is no later than the earliest timer. `parked` says why
    a run cannot be worked on by this code. `trace` is the W3C traceparent that its start came
    with; without one, it follows from the id. `number` tells its age, and is made when it
    begins; without one, the id does. `start_id` is the message that asked for it, where one
    did. `begin_at` is when a run that has not begun is to begin; `fingerprint` is that of its
    start. `history_removed_at` is when the lines of its history were removed before the run, and
    `history_archive_id` the file that they are in, if any."""
    return tables.table(
        "saga",
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
        Column("history_removed_at", UtcDateTime, nullable=True),
        id_column("history_archive_id", nullable=True),
        PrimaryKeyConstraint("id"),
        # Room for new versions of a row beside the old ones: most updates then touch no index.
        storage={"fillfactor": 60},
    )


def _index_runs(tables: TableSet, saga: Table) -> None:
    is_active, is_due = saga.c.active_key.is_not(None), saga.c.due_at.is_not(None)
    is_live = saga.c.ended_at.is_(None)
    tables.index(
        "saga_active",
        saga.c.name,
        saga.c.active_key,
        unique=True,
        postgresql_where=is_active,
        sqlite_where=is_active,
    )
    _partial(tables, "saga_due", is_due, saga.c.shard, saga.c.due_at)
    _partial(tables, "saga_begun", is_live & saga.c.begin_at.is_(None), saga.c.id)
    _partial(tables, "saga_live_number", is_live, saga.c.number)
    has_ended = saga.c.ended_at.is_not(None)
    _partial(tables, "saga_ended", has_ended, saga.c.status, saga.c.name, saga.c.ended_at)
    has_lines = has_ended & saga.c.history_removed_at.is_(None)
    # The column is always NULL there. With it, a database that knows no sizes takes this index and
    # not the other one, which has as many columns and all runs that ended.
    oldest = saga.c.status, saga.c.name, saga.c.history_removed_at, saga.c.ended_at
    _partial(tables, "saga_with_history", has_lines, *oldest)
    tables.index("saga_by_status", saga.c.status, saga.c.id)
    tables.index("saga_by_name", saga.c.name, saga.c.id)
    tables.index("saga_by_key", saga.c.key, saga.c.id)


def _partial(
    tables: TableSet, plain: str, condition: ColumnElement[bool], *columns: Column[Any]
) -> None:
    tables.index(plain, *columns, postgresql_where=condition, sqlite_where=condition)


def _saga_history(tables: TableSet) -> Table:
    """What happened to each run, numbered from 1."""
    return tables.table(
        "saga_history",
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


def _saga_alias(tables: TableSet) -> Table:
    """Starts that began no run of their own: another run was active for their key (`saga_id`), or
    they were refused (`reason`). `start_id` is the message that asked, `fingerprint` that of
    the start.

    A tombstone has the status that its run `ended` with, and the run's `name`: the run `saga_id`,
    under its own id or that of an alias, was removed. `archive_id` is the file that it is in."""
    saga_alias = tables.table(
        "saga_alias",
        id_column("id"),
        id_column("saga_id", nullable=True),
        Column("originator", String(100), nullable=True),
        Column("trace", String(55), nullable=True),
        Column("reason", Text, nullable=True),
        Column("made_at", UtcDateTime, nullable=False),
        id_column("start_id", nullable=True),
        Column("fingerprint", String(64), nullable=True),
        Column("ended", String(12), nullable=True),
        Column("name", String(100), nullable=True),
        id_column("archive_id", nullable=True),
        PrimaryKeyConstraint("id"),
        tables.index("saga_alias_saga_id", "saga_id"),
    )
    _partial(tables, "saga_alias_ended", saga_alias.c.ended.is_not(None), saga_alias.c.id)
    _partial(tables, "saga_alias_refused", saga_alias.c.saga_id.is_(None), saga_alias.c.made_at)
    return saga_alias


def _saga_start_key(tables: TableSet) -> Table:
    """Idempotency keys of starts, each with what was asked for and the run that it began."""
    return tables.table(
        "saga_start_key",
        Column("name", String(100), nullable=False),
        Column("key", String(200), nullable=False),
        Column("fingerprint", LargeBinary(32), nullable=False),
        id_column("saga_id"),
        PrimaryKeyConstraint("name", "key"),
        tables.index("saga_start_key_saga_id", "saga_id"),
    )


def _saga_signal(tables: TableSet) -> Table:
    """What was told to a run and is not yet applied. Any node adds rows; the one that owns the
    shard applies and removes them, or puts an `answer` there where a request waits for one.
    `message_id` is the message that a start came by."""
    return tables.table(
        "saga_signal",
        Column("seq", SEQUENCE, Identity(), nullable=False, autoincrement=True),
        Column("shard", SmallInteger, nullable=False),
        id_column("saga_id"),
        Column("kind", String(20), nullable=False),
        Column("payload", Text, nullable=False),
        Column("made_at", UtcDateTime, nullable=False),
        Column("answer", Text, nullable=True),
        id_column("message_id", nullable=True),
        PrimaryKeyConstraint("seq"),
        tables.index("saga_signal_queue", "shard", "seq"),
        tables.index("saga_signal_saga_id", "saga_id"),
        sqlite_autoincrement=True,
    )


def _saga_batch(tables: TableSet) -> Table:
    """One row for each group commit, by which its outcome can be found out; two for one that never
    was, whose `made_at` is a day ahead, so that they stay for longer."""
    return tables.table(
        "saga_batch",
        id_column("id"),
        Column("made_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("id"),
    )


def _saga_silence(tables: TableSet) -> Table:
    """The participants that give a node no answer: `owner` is the node, by the name of its leases.
    `deliveries` failed in a row, the first of them at `since`, the last for that `reason`; the
    next is tried at `next_at`."""
    return tables.table(
        "saga_silence",
        Column("owner", String(100), nullable=False),
        Column("destination", String(100), nullable=False),
        Column("since", UtcDateTime, nullable=False),
        Column("deliveries", Integer, nullable=False),
        Column("reason", Text, nullable=False),
        Column("next_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("owner", "destination"),
    )


def _saga_definition(tables: TableSet) -> Table:
    """The shape that each version of a definition had when it was first run here."""
    return tables.table(
        "saga_definition",
        Column("name", String(100), nullable=False),
        Column("version", Integer, nullable=False),
        Column("fingerprint", String(64), nullable=False),
        Column("seen_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("name", "version"),
    )


def _saga_token(tables: TableSet) -> Table:
    """The tokens of people and programs: the SHA-256 of each, never the token itself. A name stays
    taken, so that it always means the same one."""
    return tables.table(
        "saga_token",
        Column("name", String(100), nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("role", String(12), nullable=False),
        Column("made_at", UtcDateTime, nullable=False),
        Column("expires_at", UtcDateTime, nullable=True),
        Column("revoked_at", UtcDateTime, nullable=True),
        PrimaryKeyConstraint("name"),
        tables.index("saga_token_digest", "digest", unique=True),
    )


def _saga_session(tables: TableSet) -> Table:
    """The console's sessions: the SHA-256 of each cookie, and the name of the token that it was
    traded for. One that has ended has no row."""
    return tables.table(
        "saga_session",
        Column("digest", LargeBinary(32), nullable=False),
        Column("token", String(100), nullable=False),
        Column("made_at", UtcDateTime, nullable=False),
        Column("expires_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("digest"),
    )


def _saga_archive(tables: TableSet) -> Table:
    """The files of the archive, each with the ids of its runs or dead letters in that range.
    `state` is one of retention.files.FileState: what is in a file that is being written is still in
    the tables. `left_out` (JSON) are ids in the file that stayed in the tables after all. `place`
    is the archive, `path` the file there, without its ending."""
    return tables.table(
        "saga_archive",
        id_column("id"),
        Column("state", String(10), nullable=False),
        Column("kind", String(10), nullable=False),
        Column("place", Text, nullable=False),
        Column("path", Text, nullable=False),
        id_column("first_id"),
        id_column("last_id"),
        Column("items", Integer, nullable=False),
        Column("left_out", Text, nullable=False),
        Column("made_at", UtcDateTime, nullable=False),
        PrimaryKeyConstraint("id"),
        tables.index("saga_archive_range", "kind", "first_id", "last_id"),
        tables.index("saga_archive_state", "state"),
    )


def _saga_retention(tables: TableSet) -> Table:
    """One row, whose `only` is 1: which process removes what is old, until when, with which epoch;
    and `below`: an id that is smaller and absent may be that of a run that was removed. `oldest_at`
    is the oldest end of a run at the end of the last round, which was at `round_at`."""
    return tables.table(
        "saga_retention",
        Column("only", SmallInteger, primary_key=True, autoincrement=False),
        Column("owner", String(100), nullable=True),
        Column("epoch", BigInteger, nullable=False),
        Column("expires_at", UtcDateTime, nullable=False),
        id_column("below", nullable=True),
        Column("round_at", UtcDateTime, nullable=True),
        Column("oldest_at", UtcDateTime, nullable=True),
    )


@cache
def saga_tables(messaging: Tables) -> SagaTables:
    """The tables of the orchestrator of that installation."""
    return SagaTables(messaging)


PLAIN = saga_tables(DEFAULT_TABLES)
"""The tables under their plain names."""

metadata = PLAIN.metadata
saga = PLAIN.saga
saga_history = PLAIN.saga_history
saga_alias = PLAIN.saga_alias
saga_start_key = PLAIN.saga_start_key
saga_signal = PLAIN.saga_signal
saga_batch = PLAIN.saga_batch
saga_silence = PLAIN.saga_silence
saga_definition = PLAIN.saga_definition
saga_token = PLAIN.saga_token
saga_session = PLAIN.saga_session
saga_archive = PLAIN.saga_archive
saga_retention = PLAIN.saga_retention
