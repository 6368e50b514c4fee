"""The SQL of destinations that readers of the log serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.column_types import Xid8
from outbox.database.table_set import in_sql
from outbox.relay.message_store import Store

_LOOK = (
    text("""
WITH now AS MATERIALIZED (
    SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS ended_below,
        CAST(pg_current_wal_insert_lsn() - '0/0' AS bigint) AS place)
SELECT ended_below, place, slot_name,
    CAST(confirmed_flush_lsn - '0/0' AS bigint) AS confirmed,
    coalesce(wal_status = 'lost', false) AS is_lost,
    coalesce(plugin = 'pgoutput', false) AS has_publication,
    coalesce(database = current_database() AND slot_type = 'logical', false) AS is_ours
FROM now LEFT JOIN pg_replication_slots ON slot_name = ANY(CAST(:slots AS name[]))
""")
    .bindparams(bindparam("slots", type_=ARRAY(Text)))
    .columns(
        ended_below=BigInteger,
        place=BigInteger,
        slot_name=Text,
        confirmed=BigInteger,
        is_lost=Boolean,
        has_publication=Boolean,
        is_ours=Boolean,
    )
)
# The snapshot is older than the place in the log: what it sees as ended has its end before there.


# Older servers have no filters, and no column for them.
_SHOWN = (
    text("""
SELECT pubname, to_jsonb(shown) ->> 'rowfilter' AS filter
FROM pg_publication_tables shown JOIN pg_publication USING (pubname)
WHERE pubinsert AND pubname = ANY(CAST(:publications AS name[]))
    AND to_regclass(format('%I.%I', schemaname, tablename)) = to_regclass(:table)
""")
    .bindparams(bindparam("publications", type_=ARRAY(Text)), bindparam("table", type_=Text))
    .columns(pubname=Text, filter=Text)
)


@dataclass(frozen=True)
class Slot:
    """A replication slot. `confirmed` is the place in the log up to which its reader needs nothing
    again."""

    confirmed: int
    is_lost: bool
    """The log that it needs is gone."""
    is_ours: bool
    """It is a logical one, of this database."""
    has_publication: bool
    """Its reader sees what a publication shows."""


@dataclass(frozen=True)
class Look:
    """One look at the database: the transactions whose ids are smaller than `ended_below` have
    ended, and `place` is behind their ends in the log."""

    ended_below: int
    place: int
    slots: Mapping[str, Slot]
    """Those that are there, by name."""
    filters: Mapping[str, str | None]
    """The condition in SQL of each publication that shows inserts into the outbox, by name; None
    where it shows each of them."""


class SlotStore(Store):
    """The rows for readers of the log, in one database. Each method is one step of the caller's
    transaction."""

    async def look(
        self, connection: AsyncConnection, slots: Collection[str], publications: Collection[str]
    ) -> Look:
        """Look at these slots and publications, and how far the log has come."""
        rows = (await connection.execute(_LOOK, {"slots": sorted(slots)})).all()
        found = {
            row.slot_name: Slot(row.confirmed or 0, row.is_lost, row.is_ours, row.has_publication)
            for row in rows
            if row.slot_name is not None
        }
        shown = await connection.execute(
            _SHOWN,
            {"publications": sorted(publications), "table": in_sql(self._tables.outbox)},
        )
        filters = {row.pubname: row.filter for row in shown}
        return Look(rows[0].ended_below, rows[0].place, found, filters)

    async def trim(
        self,
        connection: AsyncConnection,
        destinations: Sequence[str],
        *,
        ended_below: int,
        shown: str | None,
        keep: float,
        most: int,
    ) -> int:
        """Delete the messages for these destinations whose transactions have ids smaller than
        `ended_below`, if the condition `shown` holds for them, and they were added `keep` seconds
        ago; at most so many. Returns how many."""
        outbox = self._tables.outbox
        read = (
            select(outbox.c.seq)
            .where(self._ended(destinations, ended_below), _holds(shown))
            .where(outbox.c.occurred_at <= self._in(timedelta(seconds=-keep)))
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        deleted = await connection.execute(delete(outbox).where(outbox.c.seq.in_(read)))
        return deleted.rowcount

    async def any_hidden(
        self,
        connection: AsyncConnection,
        destinations: Sequence[str],
        *,
        ended_below: int,
        shown: str | None,
    ) -> bool:
        """Whether any of these messages is there for which the condition does not hold."""
        if shown is None:
            return False
        hidden = select(self._tables.outbox.c.seq).where(
            self._ended(destinations, ended_below), _holds(shown).is_not(true())
        )
        return bool((await connection.execute(select(hidden.exists()))).scalar_one())

    def _ended(self, destinations: Sequence[str], ended_below: int) -> ColumnElement[bool]:
        outbox = self._tables.outbox
        # A parameter of the type would be written as a number, which the server does not compare
        # with it.
        below = cast(cast(str(ended_below), Text), Xid8())
        return and_(outbox.c.destination.in_(destinations), outbox.c.xid < below)


def _holds(condition: str | None) -> ColumnElement[bool]:
    # The owner of the table wrote it, and the server keeps it.
    return true() if condition is None else literal_column(f"({condition})", Boolean)
