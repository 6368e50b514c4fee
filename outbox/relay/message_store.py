"""The SQL that fetches, settles and buries messages. The relay's other SQL is in `lease_store` and
`hold_store`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Table,
    TextClause,
    TextualSelect,
    and_,
    delete,
    insert,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.column_types import IdInText
from outbox.database.table_set import in_sql
from outbox.database.time import DatabaseClock
from outbox.errors import MalformedEnvelope
from outbox.lanes import BUCKETS_PER_LANE
from outbox.relay.verdicts import ENVELOPE_OVERHEAD, Pending
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.wire.envelope import from_row, with_due

MESSAGE_COLUMNS = tuple(
    column.name for column in DEFAULT_TABLES.outbox_scheduled.c if column.name != "due_at"
)


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that rests: its first message, and how often that failed."""

    bucket: int
    key: str
    head_id: str
    attempts: int

    @property
    def whole(self) -> tuple[int, str]:
        """The bucket and key, as `Pending.key` has them."""
        return self.bucket, self.key


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row with broken headers; it cannot be sent."""

    seq: int
    bucket: int
    key: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Messages in the order in which they must leave. `exhausted` has the buckets that were fetched
    to their end; the others may have more."""

    messages: Sequence[Pending]
    unreadable: Sequence[Unreadable]
    exhausted: frozenset[int]


class Store(DatabaseClock):
    """The messages of one database. Each method is one step of the caller's transaction.

    `leased_as` is for couriers whose destinations share their leases, one for each bucket of a
    lane: it is the name under which these leases stand.
    """

    def __init__(
        self,
        tables: Tables,
        *,
        postgres: bool,
        now: Callable[[], datetime],
        leased_as: str | None = None,
    ) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables
        self._leased_as = leased_as

    # Fences

    async def fence(
        self, connection: AsyncConnection, destination: str, epochs: Mapping[int, int]
    ) -> frozenset[int]:
        """The buckets, of these with their epochs, that are still held. They stay held until the
        transaction ends: a takeover waits for it, a renewal does not."""
        if self._leased_as is not None:
            shards = {bucket % BUCKETS_PER_LANE: epoch for bucket, epoch in epochs.items()}
            held = await self._fence(connection, self._leased_as, shards)
            return frozenset(bucket for bucket in epochs if bucket % BUCKETS_PER_LANE in held)
        return await self._fence(connection, destination, epochs)

    async def _fence(
        self, connection: AsyncConnection, destination: str, epochs: Mapping[int, int]
    ) -> frozenset[int]:
        outbox_lease = self._tables.outbox_lease
        statement = (
            select(outbox_lease.c.bucket)
            .where(outbox_lease.c.destination == destination)
            .where(tuple_(outbox_lease.c.bucket, outbox_lease.c.epoch).in_(list(epochs.items())))
            .order_by(outbox_lease.c.bucket)
            .with_for_update(read=True, key_share=True)
        )
        return frozenset((await connection.scalars(statement)).all())

    async def limit_idleness(self, connection: AsyncConnection, seconds: float) -> None:
        """Let the database end this transaction if the process stops in the middle of it, so that
        a stopped relay cannot keep a takeover waiting."""
        if self._postgres:
            await connection.execute(
                text("SELECT set_config('idle_in_transaction_session_timeout', :ms, true)"),
                {"ms": str(max(1, int(seconds * 1000)))},
            )

    # Fetching

    async def fetch(
        self,
        connection: AsyncConnection,
        destination: str,
        floors: Mapping[int, int],
        *,
        shares: Mapping[int, int],
        most: int,
        most_bytes: int,
    ) -> Fetched:
        """Up to `most` messages of the buckets in `floors` (bucket -> the `seq` up to which nothing
        is left), in the order of that mapping and each bucket's in order, without those of resting
        keys; of each bucket no more than its share. Only the last of them may exceed `most_bytes`
        bytes in all."""
        tables = self._tables
        statement = (
            _fetch_postgres(tables) if self._postgres else _fetch_sqlite(tables, len(floors))
        )
        parameters: dict[str, Any] = {
            "destination": destination,
            "most": most,
            "most_bytes": most_bytes,
        }
        if self._postgres:
            parameters |= {
                "buckets": list(floors),
                "floors": list(floors.values()),
                "shares": [shares[bucket] for bucket in floors],
            }
        else:
            for place, (bucket, floor) in enumerate(floors.items()):
                parameters[f"bucket{place}"] = bucket
                parameters[f"floor{place}"] = floor
                parameters[f"share{place}"] = shares[bucket]
        rows = (await connection.execute(statement, parameters)).all()
        is_cut = len(rows) >= most or (bool(rows) and rows[-1].total_size >= most_bytes)
        found = [row[1] for row in rows]
        return read(rows, read_to_the_end(floors, shares, found, is_cut=is_cut), {})

    async def settled_mark(self, connection: AsyncConnection) -> tuple[int, int]:
        """The settled mark of PostgreSQL, a pair (seq, xid): once every transaction before `xid`
        has ended, no message with a `seq` up to that one can appear any more.

        The order matters: the sequence is read first, the transaction id is assigned second.
        """
        seq = (await connection.execute(_last_seq(self._tables))).scalar_one()
        xid = (await connection.execute(_ASSIGN_XID)).scalar_one()
        return int(seq), int(xid)

    async def oldest_xid(self, connection: AsyncConnection) -> int:
        """PostgreSQL's oldest transaction id: every transaction before it has ended."""
        return int((await connection.execute(_OLDEST_XID)).scalar_one())

    # Settling

    async def settle(self, connection: AsyncConnection, seqs: Sequence[int]) -> None:
        """Delete the rows of settled messages. This is right also after the lease was lost."""
        if self._postgres:
            await connection.execute(_settle_postgres(self._tables), {"seqs": list(seqs)})
        else:
            numbers = orjson.dumps(list(seqs)).decode()
            await connection.execute(_settle_sqlite(self._tables), {"seqs": numbers})

    async def bury(
        self, connection: AsyncConnection, destination: str, seq: int, *, attempts: int, reason: str
    ) -> None:
        """Make a dead letter of that row."""
        tables = self._tables
        outbox, outbox_dead = tables.outbox, tables.outbox_dead
        names = list(MESSAGE_COLUMNS)
        row = select(
            *(outbox.c[name] for name in names),
            literal(reason),
            literal(attempts),
            self._now,
        ).where(outbox.c.destination == destination, outbox.c.seq == seq)
        await connection.execute(
            self._insert(outbox_dead)
            .from_select([*names, "reason", "attempts", "died_at"], row)
            .on_conflict_do_nothing()
            if self._postgres
            else insert(outbox_dead)
            .prefix_with("OR IGNORE")
            .from_select([*names, "reason", "attempts", "died_at"], row)
        )
        await connection.execute(delete(outbox).where(outbox.c.seq == seq))

    async def any_due(self, connection: AsyncConnection, destinations: Sequence[str]) -> bool:
        """Whether a scheduled message for any of these is due."""
        outbox_scheduled = self._tables.outbox_scheduled
        due = select(outbox_scheduled.c.id).where(
            outbox_scheduled.c.destination.in_(destinations),
            outbox_scheduled.c.due_at <= self._now,
        )
        return bool((await connection.execute(select(due.exists()))).scalar_one())

    async def move_due(
        self, connection: AsyncConnection, destinations: Sequence[str], most: int
    ) -> int:
        """Move scheduled messages that are due into the outbox; returns how many."""
        tables = self._tables
        outbox_scheduled, outbox = tables.outbox_scheduled, tables.outbox
        due = (
            select(outbox_scheduled)
            .where(outbox_scheduled.c.destination.in_(destinations))
            .where(outbox_scheduled.c.due_at <= self._now)
            .order_by(outbox_scheduled.c.due_at, outbox_scheduled.c.id)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        rows = (await connection.execute(due)).mappings().all()
        if not rows:
            return 0
        await connection.execute(insert(outbox), [_unscheduled(row) for row in rows])
        await connection.execute(
            delete(outbox_scheduled).where(
                tuple_(outbox_scheduled.c.id, outbox_scheduled.c.destination).in_(
                    [(row["id"], row["destination"]) for row in rows]
                )
            )
        )
        return len(rows)


def _unscheduled(row: RowMapping) -> dict[str, Any]:
    moved = {name: row[name] for name in MESSAGE_COLUMNS}
    # Scheduled by code that knew no `due`: its id is as old as the time of adding.
    moved["headers"] = with_due(row["headers"], row["due_at"])
    return moved


_TOTAL = Column("total_size", BigInteger)
"""The bytes of a message and of all that come before it."""


@cache
def fetched(tables: Tables) -> Sequence[Column[Any]]:
    """The columns of the outbox from which `read` makes messages."""
    return [tables.outbox.c[name] for name in _FETCHED]


_FETCHED = ("seq", "bucket", "id", "aggregateid", "type", "payload", "headers", "occurred_at")
_FETCHED_NAMES = ", ".join(_FETCHED)


def _read_as(tables: Tables) -> Sequence[Column[Any]]:
    """The columns of a statement that reads many."""
    columns = [Column("id", IdInText) if it.name == "id" else it for it in fetched(tables)]
    return [*columns, _TOTAL]


def _not_held(tables: Tables) -> str:
    return f"""NOT EXISTS (
    SELECT 1 FROM {in_sql(tables.outbox_held)} h
    WHERE h.destination = :destination AND h.bucket = o.bucket AND h.aggregateid = o.aggregateid)"""


# One index range per bucket, also with a large backlog. The sizes cost no look at large texts: they
# stand where the row refers to one.
@cache
def _fetch_postgres(tables: Tables) -> TextualSelect:
    return text(f"""
WITH found AS (
    SELECT {_FETCHED_NAMES}, place, octet_length(payload) + {ENVELOPE_OVERHEAD} AS size
    FROM unnest(CAST(:buckets AS smallint[]), CAST(:floors AS bigint[]), CAST(:shares AS integer[]))
        WITH ORDINALITY AS wanted(number, floor, share, place)
    CROSS JOIN LATERAL (
        SELECT {_FETCHED_NAMES} FROM {in_sql(tables.outbox)} o
        WHERE o.destination = :destination AND o.bucket = wanted.number AND o.seq > wanted.floor
            AND {_not_held(tables)}
        ORDER BY o.seq LIMIT wanted.share) queue
    ORDER BY place, seq LIMIT :most),
summed AS (
    SELECT *, sum(size) OVER (ORDER BY place, seq ROWS UNBOUNDED PRECEDING) AS total_size
    FROM found)
SELECT {_FETCHED_NAMES}, total_size FROM summed
WHERE total_size - size < :most_bytes ORDER BY place, seq
""").columns(*_read_as(tables))


@cache
def _settle_postgres(tables: Tables) -> TextClause:
    return text(f"DELETE FROM {in_sql(tables.outbox)} WHERE seq = ANY(CAST(:seqs AS bigint[]))")


# The same text for every number of messages, which SQLAlchemy need not write anew.
@cache
def _settle_sqlite(tables: Tables) -> TextClause:
    return text(
        f"DELETE FROM {in_sql(tables.outbox)} WHERE seq IN (SELECT value FROM json_each(:seqs))"
    )


@cache
def _last_seq(tables: Tables) -> TextClause:
    # Before the first number is drawn, `last_value` is the number to come.
    sequence = tables.in_sql("outbox_seq_seq")
    return text(f"SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM {sequence}")


_ASSIGN_XID = text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
_OLDEST_XID = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


@cache
def _fetch_sqlite(tables: Tables, buckets: int) -> TextualSelect:
    parts = " UNION ALL ".join(
        f"""SELECT * FROM (
        SELECT {place} AS place, o.seq AS at,
            length(CAST(o.payload AS BLOB)) + {ENVELOPE_OVERHEAD} AS size
        FROM {in_sql(tables.outbox)} o
        WHERE o.destination = :destination AND o.bucket = :bucket{place} AND o.seq > :floor{place}
            AND {_not_held(tables)}
        ORDER BY o.seq LIMIT :share{place})"""
        for place in range(buckets)
    )
    # The messages themselves are read last, since the sum copies its rows.
    statement = f"""
WITH found AS (SELECT * FROM ({parts}) ORDER BY place, at LIMIT :most),
summed AS (
    SELECT *, sum(size) OVER (ORDER BY place, at ROWS UNBOUNDED PRECEDING) AS total_size FROM found)
SELECT {_FETCHED_NAMES}, total_size FROM summed
JOIN {in_sql(tables.outbox)} AS o ON o.seq = summed.at
WHERE total_size - size < :most_bytes ORDER BY place, at"""
    return text(statement).columns(*_read_as(tables))


def read_to_the_end(
    buckets: Iterable[int], shares: Mapping[int, int], found: Sequence[int], *, is_cut: bool
) -> frozenset[int]:
    """The buckets, in the order in which they were fetched, of which a fetch saw the end. `found`
    has the bucket of each message. One that `is_cut` ended in the bucket of its last message."""
    counts = Counter(found)
    ended = []
    for bucket in buckets:
        if is_cut and bucket == found[-1]:
            break
        if counts[bucket] < shares[bucket]:
            ended.append(bucket)
    return frozenset(ended)


def is_key(
    table: Table, destination: str, bucket: int | Column[int], key: str | Column[str]
) -> ColumnElement[bool]:
    """The rows of one key."""
    return and_(
        table.c.destination == destination, table.c.bucket == bucket, table.c.aggregateid == key
    )


def read(
    rows: Sequence[Any], exhausted: frozenset[int], heads: Mapping[tuple[int, str], HeldKey]
) -> Fetched:
    """Rows of the columns of `fetched`, and perhaps more behind them, as messages; `heads` has the
    keys that rested."""
    messages: list[Pending] = []
    unreadable: list[Unreadable] = []
    for seq, bucket, id_, key, type_, payload, headers, occurred_at, *_ in rows:
        try:
            envelope = from_row(id_, type_, key, occurred_at, payload, headers)
        except MalformedEnvelope as error:
            unreadable.append(Unreadable(seq, bucket, key, id_, str(error)))
            continue
        head = heads.get((bucket, key)) if heads else None
        if head is None:
            messages.append(Pending(seq, bucket, envelope))
            continue
        # An operator may have deleted the message that the failures belong to.
        attempts = head.attempts if head.head_id == id_ else 0
        messages.append(Pending(seq, bucket, envelope, attempts, held=True))
    return Fetched(messages, unreadable, exhausted)
