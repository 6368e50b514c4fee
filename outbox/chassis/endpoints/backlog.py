"""What stands in the tables: the backlog of unsent messages per destination, and the commands whose
answers come later. Read at a bounded cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import String, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.lanes import BUCKETS
from outbox.tables import UtcDateTime

COUNTED_UP_TO = 100_000


@dataclass(frozen=True)
class Backlog:
    """The backlog of one destination. Counts end at `COUNTED_UP_TO`.

    `oldest` is when the oldest unsent message was made, None where there is none.
    """

    destination: str
    unsent: int
    parked: int
    scheduled: int
    held_keys: int
    dead: int
    oldest: datetime | None


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


# It walks from one destination to the next along the index, instead of reading every row.
_DESTINATIONS = text(
    " UNION ".join(
        f"""SELECT destination FROM (
  WITH RECURSIVE places(destination) AS (
    SELECT min(destination) FROM {table}
    UNION ALL
    SELECT (SELECT min(destination) FROM {table} WHERE destination > places.destination)
    FROM places WHERE places.destination IS NOT NULL
  ) SELECT destination FROM places WHERE destination IS NOT NULL
) AS {table}_places"""
        for table in ("outbox", "outbox_held", "outbox_dead", "outbox_parked", "outbox_scheduled")
    )
)


def _count(table: str) -> str:
    return (
        f"(SELECT count(*) FROM (SELECT 1 FROM {table} "
        "WHERE destination = :destination LIMIT :most) AS counted)"
    )


_STANDING = text(
    f"""WITH RECURSIVE buckets(bucket) AS (
  SELECT 0 UNION ALL SELECT bucket + 1 FROM buckets WHERE bucket < :last
), heads AS (
  SELECT (SELECT occurred_at FROM outbox
          WHERE outbox.destination = :destination AND outbox.bucket = buckets.bucket
          ORDER BY seq LIMIT 1) AS head
  FROM buckets
)
SELECT {_count("outbox")} AS unsent, {_count("outbox_parked")} AS parked,
       {_count("outbox_scheduled")} AS scheduled, {_count("outbox_held")} AS held_keys,
       {_count("outbox_dead")} AS dead, (SELECT min(head) FROM heads) AS oldest"""
).bindparams(
    bindparam("destination", type_=String),
    most=COUNTED_UP_TO,
    last=BUCKETS[-1],
)

# For each row it looks the state up, instead of reading all of the inbox.
_WAITING = text(
    """SELECT CASE WHEN attempt > 0 THEN 'calling' ELSE 'waiting' END AS kind,
       count(*) AS count, min(since) AS oldest
FROM (SELECT attempt, since FROM inbox_pending
      WHERE consumer = :consumer AND
            (SELECT state FROM inbox
             WHERE inbox.consumer = inbox_pending.consumer AND inbox.id = inbox_pending.id)
            = 'pending' LIMIT :most) AS counted
GROUP BY 1"""
).bindparams(bindparam("consumer", type_=String), most=COUNTED_UP_TO)
_KINDS = ("calling", "waiting")


async def waiting(connection: AsyncConnection, consumer: str) -> Sequence[Waiting]:
    """What is pending at that consumer, of each kind."""
    query = _WAITING.columns(oldest=UtcDateTime)
    rows = (await connection.execute(query, {"consumer": consumer})).all()
    found = {row.kind: Waiting(*row) for row in rows}
    return [found.get(kind, Waiting(kind, 0, None)) for kind in _KINDS]


async def standing(connection: AsyncConnection, known: Iterable[str] = ()) -> Sequence[Backlog]:
    """The backlogs of every destination that is known or has messages in the tables, by name."""
    found = set((await connection.execute(_DESTINATIONS)).scalars()) | set(known)
    query = _STANDING.columns(oldest=UtcDateTime)
    backlogs = []
    for destination in sorted(found):
        row = (await connection.execute(query, {"destination": destination})).one()
        backlogs.append(Backlog(destination=destination, **row._mapping))
    return backlogs
