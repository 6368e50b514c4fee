"""The SQL of keys that rest because a message failed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.time import DatabaseClock
from outbox.lanes import BLOCKED
from outbox.relay.message_store import MESSAGE_COLUMNS, Fetched, HeldKey, fetched, is_key, read
from outbox.relay.verdicts import Pending
from outbox.tables import Tables


class HoldStore(DatabaseClock):
    """Holds and parked messages, in one database. Each method is one step of the caller's
    transaction."""

    def __init__(self, tables: Tables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def due(
        self, connection: AsyncConnection, destination: str, buckets: Sequence[int], most: int
    ) -> list[HeldKey]:
        """Keys whose rest is over, the longest first."""
        outbox_held = self._tables.outbox_held
        statement = (
            select(
                outbox_held.c.bucket,
                outbox_held.c.aggregateid,
                outbox_held.c.head_id,
                outbox_held.c.attempts,
            )
            .where(outbox_held.c.destination == destination, outbox_held.c.bucket.in_(buckets))
            .where(outbox_held.c.next_at <= self._now)
            .order_by(outbox_held.c.next_at)
            .limit(most)
        )
        return [HeldKey(*row) for row in await connection.execute(statement)]

    async def any(
        self, connection: AsyncConnection, destination: str, buckets: Sequence[int]
    ) -> bool:
        """Whether any key of these buckets rests."""
        outbox_held = self._tables.outbox_held
        found = select(outbox_held.c.bucket).where(
            outbox_held.c.destination == destination, outbox_held.c.bucket.in_(buckets)
        )
        return bool((await connection.execute(select(found.exists()))).scalar_one())

    async def begin_trials(
        self,
        connection: AsyncConnection,
        destination: str,
        trials: Sequence[tuple[HeldKey, float]],
    ) -> None:
        """Begin new attempts for these keys: their parked messages come back, and each attempt is
        counted with its pause (seconds) at once, so that it counts even if it kills the process."""
        tables = self._tables
        outbox_held, outbox_parked, outbox = tables.outbox_held, tables.outbox_parked, tables.outbox
        for key, pause in trials:
            await connection.execute(
                update(outbox_held)
                .where(is_key(outbox_held, destination, key.bucket, key.key))
                .values(attempts=key.attempts + 1, next_at=self._in(timedelta(seconds=pause)))
            )
        chosen = [(key.bucket, key.key) for key, _ in trials]
        parked = and_(
            outbox_parked.c.destination == destination,
            tuple_(outbox_parked.c.bucket, outbox_parked.c.aggregateid).in_(chosen),
        )
        names = ("seq", *MESSAGE_COLUMNS)
        await connection.execute(
            insert(outbox).from_select(
                list(names), select(*(outbox_parked.c[name] for name in names)).where(parked)
            )
        )
        await connection.execute(delete(outbox_parked).where(parked))

    async def fetch(
        self, connection: AsyncConnection, destination: str, keys: Sequence[HeldKey]
    ) -> Fetched:
        """The first message of each of these keys."""
        outbox = self._tables.outbox
        heads = {(key.bucket, key.key): key for key in keys}
        first = (
            select(func.min(outbox.c.seq))
            .where(outbox.c.destination == destination)
            .where(tuple_(outbox.c.bucket, outbox.c.aggregateid).in_(list(heads)))
            .group_by(outbox.c.bucket, outbox.c.aggregateid)
        )
        statement = (
            select(*fetched(self._tables)).where(outbox.c.seq.in_(first)).order_by(outbox.c.seq)
        )
        rows = (await connection.execute(statement)).all()
        return read(rows, frozenset(), heads)

    async def any_blocked(self, connection: AsyncConnection, destination: str) -> bool:
        """Whether any key is blocked."""
        outbox_held = self._tables.outbox_held
        found = select(outbox_held.c.bucket).where(
            outbox_held.c.destination == destination, outbox_held.c.next_at >= BLOCKED
        )
        return bool((await connection.execute(select(found.exists()))).scalar_one())

    async def park_blocked(
        self, connection: AsyncConnection, destination: str, buckets: Collection[int], most: int
    ) -> int:
        """Let up to `most` messages of blocked keys in these buckets leave the hot table, which
        were added since. Returns how many."""
        tables = self._tables
        outbox_held, outbox, outbox_parked = tables.outbox_held, tables.outbox, tables.outbox_parked
        is_blocked = (
            select(outbox_held.c.bucket)
            .where(is_key(outbox_held, destination, outbox.c.bucket, outbox.c.aggregateid))
            .where(outbox_held.c.next_at >= BLOCKED)
            .exists()
        )
        chosen = (
            select(outbox.c.seq, outbox.c.bucket, outbox.c.aggregateid)
            .where(outbox.c.destination == destination, outbox.c.bucket.in_(buckets), is_blocked)
            .order_by(outbox.c.bucket, outbox.c.seq)
            .limit(most)
        )
        found = (await connection.execute(chosen)).all()
        keys = {(bucket, key) for _, bucket, key in found}
        blocked = await self._locked_while_blocked(connection, destination, keys)
        seqs = [seq for seq, bucket, key in found if (bucket, key) in blocked]
        if seqs:
            names = ("seq", *MESSAGE_COLUMNS)
            rows = select(*(outbox.c[name] for name in names)).where(outbox.c.seq.in_(seqs))
            await connection.execute(insert(outbox_parked).from_select(list(names), rows))
            await connection.execute(delete(outbox).where(outbox.c.seq.in_(seqs)))
        return len(seqs)

    async def _locked_while_blocked(
        self, connection: AsyncConnection, destination: str, keys: Collection[tuple[int, str]]
    ) -> set[tuple[int, str]]:
        """Those of these keys that are still blocked, and stay so until the transaction ends: a
        trial that an operator let begin meanwhile would not find what is parked behind it."""
        if not keys:
            return set()
        outbox_held = self._tables.outbox_held
        statement = (
            select(outbox_held.c.bucket, outbox_held.c.aggregateid)
            .where(outbox_held.c.destination == destination, outbox_held.c.next_at >= BLOCKED)
            .where(tuple_(outbox_held.c.bucket, outbox_held.c.aggregateid).in_(list(keys)))
            # In the order of the operators.
            .order_by(outbox_held.c.bucket, outbox_held.c.aggregateid)
            .with_for_update(read=True)
        )
        return {(bucket, key) for bucket, key in await connection.execute(statement)}

    async def next_due(
        self, connection: AsyncConnection, destination: str, buckets: Sequence[int]
    ) -> float | None:
        """Seconds until the next key of these buckets is due; None where none rests."""
        outbox_held = self._tables.outbox_held
        statement = select(func.min(outbox_held.c.next_at), self._now).where(
            outbox_held.c.destination == destination, outbox_held.c.bucket.in_(buckets)
        )
        due, now = (await connection.execute(statement)).one()
        return None if due is None else max(0.0, (due - now).total_seconds())

    async def buckets(self, connection: AsyncConnection, destination: str) -> frozenset[int]:
        """The buckets of which any key rests."""
        outbox_held = self._tables.outbox_held
        statement = (
            select(outbox_held.c.bucket).where(outbox_held.c.destination == destination).distinct()
        )
        return frozenset((await connection.scalars(statement)).all())

    async def free(
        self, connection: AsyncConnection, destination: str, keys: Sequence[tuple[int, str]]
    ) -> None:
        """Free these keys, so that they rest no longer."""
        outbox_held = self._tables.outbox_held
        await connection.execute(
            delete(outbox_held).where(
                outbox_held.c.destination == destination,
                tuple_(outbox_held.c.bucket, outbox_held.c.aggregateid).in_(keys),
            )
        )

    async def undo_trial(
        self, connection: AsyncConnection, destination: str, message: Pending
    ) -> None:
        """Undo the trial that `begin_trials` counted, since it did not take place; it is due
        again."""
        outbox_held = self._tables.outbox_held
        await connection.execute(
            update(outbox_held)
            .where(is_key(outbox_held, destination, *message.key))
            .values(attempts=message.attempts, next_at=self._now)
        )

    async def is_there(
        self, connection: AsyncConnection, destination: str, message: Pending
    ) -> bool:
        """Whether this message, the first of a key that rests, is still there: an operator may
        have dropped it meanwhile, and cannot from here on."""
        tables = self._tables
        rests = select(tables.outbox_held.c.head_id).where(
            is_key(tables.outbox_held, destination, *message.key)
        )
        await connection.execute(rests.with_for_update())
        # A second statement, since the first one does not see what the lock waited for.
        found = [
            select(table.c.seq)
            .where(is_key(table, destination, *message.key), table.c.id == message.envelope.id)
            .exists()
            for table in (tables.outbox, tables.outbox_parked)
        ]
        return bool((await connection.execute(select(or_(*found)))).scalar_one())

    async def hold(
        self,
        connection: AsyncConnection,
        destination: str,
        head: HeldKey,
        *,
        delay: float | None,
        error: str,
        park: bool,
    ) -> None:
        """Let this key rest for so many seconds; None blocks it. With `park` its messages also
        leave the hot table."""
        tables = self._tables
        outbox_held, outbox, outbox_parked = tables.outbox_held, tables.outbox, tables.outbox_parked
        values = {
            "head_id": head.head_id,
            "attempts": head.attempts,
            "next_at": BLOCKED if delay is None else self._in(timedelta(seconds=delay)),
            "last_error": error,
        }
        bucket, key = head.whole
        await connection.execute(
            self._insert(outbox_held)
            .values(destination=destination, bucket=bucket, aggregateid=key, **values)
            .on_conflict_do_update(
                index_elements=["destination", "bucket", "aggregateid"], set_=values
            )
        )
        if park:
            waiting = is_key(outbox, destination, bucket, key)
            names = ("seq", *MESSAGE_COLUMNS)
            await connection.execute(
                insert(outbox_parked).from_select(
                    list(names), select(*(outbox.c[name] for name in names)).where(waiting)
                )
            )
            await connection.execute(
                delete(outbox).where(
                    outbox.c.seq.in_(
                        select(outbox_parked.c.seq).where(
                            is_key(outbox_parked, destination, bucket, key)
                        )
                    )
                )
            )
