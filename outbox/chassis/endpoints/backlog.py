"""What stands in the tables: the backlog of unsent messages per destination, and the commands whose
answers come later. Read at a bounded cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import Boolean, String, Table, TextClause, TextualSelect, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.column_types import UtcDateTime
from outbox.database.table_set import in_sql
from outbox.lanes import BLOCKED, BUCKETS, PAUSED
from outbox.tables import Tables
from outbox.transports.brokers.held.operators import HeldCount

COUNTED_UP_TO = 100_000


@dataclass(frozen=True)
class Backlog:
    """The backlog of one destination. Counts end at `COUNTED_UP_TO`.

    `oldest` is when the oldest unsent message was made, None where there is none; `oldest_parked`
    is the same of the parked ones.
    """

    destination: str
    unsent: int
    parked: int
    scheduled: int
    held_keys: int
    dead: int
    oldest: datetime | None
    paused: bool = False
    """Whether nothing is sent there until an operator resumes it."""
    blocked_keys: int = 0
    """Those of the held keys that an operator has to free."""
    oldest_parked: datetime | None = None

    @property
    def waiting(self) -> int:
        """How many messages wait, parked or not."""
        return self.unsent + self.parked

    @property
    def oldest_waiting(self) -> datetime | None:
        """When the oldest of them was made; None where there is none."""
        return min((it for it in (self.oldest, self.oldest_parked) if it), default=None)


@dataclass(frozen=True)
class Waiting:
    """The pending commands of one kind: `waiting` for `service.complete`, or `calling` the outside.

    The count ends at `COUNTED_UP_TO` for both kinds together. `oldest` is since when the oldest of
    the counted ones is pending, None where there is none.
    """

    kind: str
    count: int
    oldest: datetime | None


@dataclass(frozen=True)
class Standing:
    """What stands in the tables of one service."""

    backlogs: Sequence[Backlog]
    waiting: Sequence[Waiting]
    received: Sequence[HeldCount] = ()
    """What came by a broker, and is held."""


@cache
def _destinations(tables: Tables) -> TextClause:
    # It walks from one destination to the next along the index, instead of reading every row.
    return text(
        " UNION ".join(
            f"""SELECT destination FROM (
  WITH RECURSIVE places(destination) AS (
    SELECT min(destination) FROM {in_sql(table)}
    UNION ALL
    SELECT (SELECT min(destination) FROM {in_sql(table)} WHERE destination > places.destination)
    FROM places WHERE places.destination IS NOT NULL
  ) SELECT destination FROM places WHERE destination IS NOT NULL
) AS found_{number}"""
            for number, table in enumerate(
                (
                    tables.outbox,
                    tables.outbox_held,
                    tables.outbox_dead,
                    tables.outbox_parked,
                    tables.outbox_scheduled,
                )
            )
        )
    )


def _count(table: Table, but: str = "") -> str:
    return (
        f"(SELECT count(*) FROM (SELECT 1 FROM {in_sql(table)} "
        f"WHERE destination = :destination {but} LIMIT :most) AS counted)"
    )


def _head(table: Table) -> str:
    return (
        f"(SELECT o.occurred_at FROM {in_sql(table)} AS o WHERE o.destination = :destination "
        "AND o.bucket = buckets.bucket ORDER BY o.seq LIMIT 1)"
    )


@cache
def _standing(tables: Tables) -> TextualSelect:
    statement = f"""WITH RECURSIVE buckets(bucket) AS (
  SELECT 0 UNION ALL SELECT bucket + 1 FROM buckets WHERE bucket < :last
), heads AS (
  SELECT {_head(tables.outbox)} AS head, {_head(tables.outbox_parked)} AS parked_head FROM buckets
)
SELECT {_count(tables.outbox)} AS unsent, {_count(tables.outbox_parked)} AS parked,
       {_count(tables.outbox_scheduled)} AS scheduled,
       {_count(tables.outbox_held, "AND bucket >= 0")} AS held_keys,
       {_count(tables.outbox_held, "AND bucket >= 0 AND next_at >= :blocked")} AS blocked_keys,
       {_count(tables.outbox_dead)} AS dead,
       EXISTS (SELECT 1 FROM {in_sql(tables.outbox_held)}
               WHERE destination = :destination AND bucket = {PAUSED}) AS paused,
       (SELECT min(head) FROM heads) AS oldest,
       (SELECT min(parked_head) FROM heads) AS oldest_parked"""
    destination = bindparam("destination", type_=String)
    blocked = bindparam("blocked", BLOCKED, type_=UtcDateTime)
    bound = text(statement).bindparams(destination, blocked, most=COUNTED_UP_TO, last=BUCKETS[-1])
    return bound.columns(paused=Boolean, oldest=UtcDateTime, oldest_parked=UtcDateTime)


@cache
def _waiting(tables: Tables) -> TextualSelect:
    # For each row it looks the state up, instead of reading all of the inbox.
    statement = f"""SELECT CASE WHEN attempt > 0 THEN 'calling' ELSE 'waiting' END AS kind,
       count(*) AS count, min(since) AS oldest
FROM (SELECT p.attempt, p.since FROM {in_sql(tables.inbox_pending)} AS p
      WHERE p.consumer = :consumer AND
            (SELECT i.state FROM {in_sql(tables.inbox)} AS i
             WHERE i.consumer = p.consumer AND i.id = p.id)
            = 'pending' LIMIT :most) AS counted
GROUP BY 1"""
    consumer = bindparam("consumer", type_=String)
    bound = text(statement).bindparams(consumer, most=COUNTED_UP_TO)
    return bound.columns(oldest=UtcDateTime)


_KINDS = ("calling", "waiting")


async def waiting(connection: AsyncConnection, tables: Tables, consumer: str) -> Sequence[Waiting]:
    """What is pending at that consumer, of each kind."""
    rows = (await connection.execute(_waiting(tables), {"consumer": consumer})).all()
    found = {row.kind: Waiting(*row) for row in rows}
    return [found.get(kind, Waiting(kind, 0, None)) for kind in _KINDS]


async def standing(
    connection: AsyncConnection, tables: Tables, known: Iterable[str] = ()
) -> Sequence[Backlog]:
    """The backlogs of every destination that is known or has messages in the tables, by name."""
    found = set((await connection.execute(_destinations(tables))).scalars()) | set(known)
    backlogs = []
    for destination in sorted(found):
        row = (await connection.execute(_standing(tables), {"destination": destination})).one()
        backlogs.append(Backlog(destination=destination, **row._mapping))
    return backlogs
