"""The SQL of the held table."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from zlib import crc32

from sqlalchemy import (
    Boolean,
    Integer,
    Select,
    String,
    bindparam,
    column,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.adding.insert import ORDER_LOCKS
from outbox.database.column_types import given
from outbox.database.time import DatabaseClock
from outbox.inbox.batches import order_key
from outbox.safe_text import fit
from outbox.tables import Tables
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.transports.brokers.held.policy import GiveUp, Rest
from outbox.transports.brokers.held.rows import HeldRow, State, new_row, read_row

Database: TypeAlias = AsyncConnection | AsyncSession


class HeldStore(DatabaseClock):
    """The held messages of one consumer. Each method is one step of the caller's transaction, which
    on PostgreSQL sees what others have committed before each statement (READ COMMITTED).

    Two rules hold whenever no transaction is open. Of each key the first row that waits or blocks
    is its head; and among the rows of a key only a head that waits has a `next_at`. Who adds a row
    to a key, takes one away or changes its state holds the key's lock, so that no row is left
    behind a head that is gone.
    """

    def __init__(
        self, tables: Tables, consumer: str, *, postgres: bool, now: Callable[[], datetime]
    ) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables
        self._held = tables.inbox_held
        self._consumer = consumer
        # Of the index that has only such rows a database makes use where the statement says so
        # itself, and not by a parameter.
        self._is_live = self._held.c.state != literal(State.DEAD.value, literal_execute=True)

    async def lock(self, database: Database, keys: Collection[LaneKey]) -> None:
        """Let no other transaction change which rows these keys have, until this one ends. On
        SQLite every transaction that writes does that."""
        if not self._postgres or not keys:
            return
        number = func.unnest(bindparam("locks", type_=ARRAY(Integer))).column_valued("number")
        statement = select(func.pg_advisory_xact_lock(bindparam("space", type_=Integer), number))
        # Sorted, so that two transactions do not wait for each other; apart from the locks with
        # which messages are added.
        numbers = sorted(
            {ORDER_LOCKS + crc32(f"{lane:d}:{key}".encode()) % ORDER_LOCKS for lane, key in keys}
        )
        await database.execute(statement, {"space": self._tables.lock_space, "locks": numbers})

    async def heads(self, database: Database, keys: Collection[LaneKey]) -> Mapping[LaneKey, int]:
        """The `seq` of the head of each of these keys that is held. It looks at one row of each,
        however many there are."""
        if not keys:
            return {}
        statement, parameters = (
            self._heads_on_postgresql(keys) if self._postgres else self._heads_on_sqlite(keys)
        )
        rows = (await database.execute(statement, parameters)).all()
        return {(bool(lane), key): seq for lane, key, seq in rows if seq is not None}

    def _heads_on_postgresql(self, keys: Collection[LaneKey]) -> tuple[Select[Any], dict[str, Any]]:
        at = self._held.c
        wanted = given({"undo_lane": Boolean(), "key": String()})
        # The first row at that key or behind it: only the index of the order has it. With an equal
        # key and its lowest number, the planner may as well walk up all numbers.
        first = (
            select(at.key, at.seq)
            .where(at.consumer == self._consumer, at.undo_lane == wanted.c.undo_lane)
            .where(at.key >= wanted.c.key, self._is_live)
            .order_by(at.key, at.seq)
            .limit(1)
            .lateral("first")
        )
        statement = select(wanted.c.undo_lane, wanted.c.key, first.c.seq).join_from(
            wanted, first, first.c.key == wanted.c.key
        )
        pairs = list(keys)
        return statement, {
            "undo_lanes": [it for it, _ in pairs],
            "keys": [it for _, it in pairs],
        }

    def _heads_on_sqlite(self, keys: Collection[LaneKey]) -> tuple[Select[Any], dict[str, Any]]:
        at = self._held.c
        each = func.json_each(bindparam("wanted", type_=String)).table_valued(
            column("value", String), name="wanted"
        )
        lane = func.json_extract(each.c.value, "$[0]", type_=Integer)
        key = func.json_extract(each.c.value, "$[1]", type_=String)
        head = (
            select(at.seq)
            .where(at.consumer == self._consumer, at.undo_lane == lane)
            .where(at.key == key, self._is_live)
            .order_by(at.seq)
            .limit(1)
            .scalar_subquery()
        )
        return select(lane, key, head), {"wanted": json.dumps(list(keys))}

    async def hold(
        self, database: Database, items: Sequence[ToHold], pauses: Sequence[float]
    ) -> None:
        """Hold the packets, each behind the earlier ones of its key; one that is the first rests
        for its pause (seconds). What is dead holds no key, unless it blocks it; then it has no
        turn. One that is held already stays as it is. One that was given up is tried again, since
        its sender has sent it again."""
        keys = {it for it in map(_key_of, items) if it is not None}
        await self.lock(database, keys)
        now = await self.now(database)
        held = set(await self.heads(database, keys))
        rows: dict[bytes, tuple[dict[str, Any], LaneKey | None, float]] = {}
        for item, pause in zip(items, pauses, strict=True):
            row = new_row(item, self._consumer, now)
            rows.setdefault(row["fingerprint"], (row, _key_of(item), pause))
        known = await self._states(database, list(rows))
        new = []
        for fingerprint, (row, key, pause) in rows.items():
            state = known.get(fingerprint)
            if state is None:
                if key is not None and key not in held and row["state"] == State.WAITING.value:
                    row["next_at"] = now + timedelta(seconds=pause)
                new.append(row)
            elif state is State.DEAD and key is not None:
                await self._revive(database, row)
            if key is not None:
                held.add(key)
        if new:
            # Two processes may hold the same unreadable packet at once, since it has no lock.
            await database.execute(self._insert(self._held).on_conflict_do_nothing(), new)
        if State.DEAD in known.values():
            await self.appoint(database, keys, displaced=True)

    async def _states(
        self, database: Database, fingerprints: Sequence[bytes]
    ) -> Mapping[bytes, State]:
        at = self._held.c
        statement = select(at.fingerprint, at.state).where(
            at.consumer == self._consumer, at.fingerprint.in_(fingerprints)
        )
        rows = (await database.execute(statement)).all()
        return {row.fingerprint: State(row.state) for row in rows}

    async def _revive(self, database: Database, row: Mapping[str, Any]) -> None:
        at = self._held.c
        anew = ("state", "attempts", "last_error", "expires_at")
        await database.execute(
            update(self._held)
            .where(at.consumer == self._consumer, at.fingerprint == row["fingerprint"])
            .where(at.state == State.DEAD.value)
            .values(revision=at.revision + 1, **{name: row[name] for name in anew})
        )

    async def now(self, database: Database) -> datetime:
        """The time of the database."""
        return (await database.execute(select(self._now))).scalar_one()

    async def appoint(
        self, database: Database, keys: Collection[LaneKey], *, displaced: bool = False
    ) -> None:
        """Restore the second rule for these keys, whose locks are held: a row that has become the
        head has its turn now. With `displaced` an earlier row may have come before a head, which
        then has none any more."""
        at = self._held.c
        heads = list((await self.heads(database, keys)).values())
        if heads and displaced:
            await database.execute(
                update(self._held)
                .where(at.consumer == self._consumer, at.next_at.is_not(None))
                .where(at.seq.not_in(heads), tuple_(at.undo_lane, at.key).in_(list(keys)))
                .values(next_at=None, revision=at.revision + 1)
            )
        if heads:
            await database.execute(
                update(self._held)
                .where(at.seq.in_(heads), at.state == State.WAITING.value, at.next_at.is_(None))
                .values(next_at=self._now, revision=at.revision + 1)
            )

    async def claim_due(self, database: Database, most: int, seconds: float) -> list[HeldRow]:
        """The heads whose rest is over, the longest first; each is this caller's for so long. The
        attempt is counted at once, so that it counts even if it ends the process."""
        at = self._held.c
        statement = (
            self._rows()
            # In a query of its own, so that PostgreSQL asks its clock once, and uses the index.
            .where(at.consumer == self._consumer, at.next_at <= select(self._now).scalar_subquery())
            .where(at.state == State.WAITING.value)
            .order_by(at.next_at, at.seq)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        rows = (await database.execute(statement)).all()
        return await self._claim(database, [read_row(row) for row in rows], seconds)

    async def claim_next(
        self, database: Database, key: LaneKey, most: int, seconds: float
    ) -> list[HeldRow]:
        """The first rows of the key in their order, whose lock is held; the first one is claimed as
        `claim_due` does. None where an operator has to decide about the first."""
        at = self._held.c
        undo_lane, name = key
        statement = (
            self._rows()
            .where(at.consumer == self._consumer, at.undo_lane == undo_lane)
            # In the words for which only the index of the order is of use, as for heads.
            .where(at.key >= name, at.key <= name, self._is_live)
            .order_by(at.key, at.seq)
            .limit(most)
        )
        rows = [read_row(row) for row in (await database.execute(statement)).all()]
        blocked = next((n for n, it in enumerate(rows) if it.state is State.BLOCKED), len(rows))
        rows = rows[:blocked]
        return [*await self._claim(database, rows[:1], seconds), *rows[1:]]

    async def _claim(
        self, database: Database, rows: Sequence[HeldRow], seconds: float
    ) -> list[HeldRow]:
        at = self._held.c
        if rows:
            await database.execute(
                update(self._held)
                .where(at.seq.in_([row.seq for row in rows]))
                .values(
                    attempts=at.attempts + 1,
                    revision=at.revision + 1,
                    next_at=self._in(timedelta(seconds=seconds)),
                )
            )
        return [row.changed() for row in rows]

    def _rows(self) -> Select[Any]:
        return select(self._held, self._now.label("read_at"))

    async def remove(self, database: Database, rows: Sequence[HeldRow]) -> None:
        """Delete rows that were answered. Also one that another process holds by now, where it is
        the same message: what an operator has made a new one of is not answered."""
        if rows:
            at = self._held.c
            answered = [(row.seq, row.message_id) for row in rows]
            await database.execute(
                delete(self._held).where(tuple_(at.seq, at.message_id).in_(answered))
            )

    async def take(self, database: Database, row: HeldRow) -> bool:
        """Delete the row. False where it was changed since it was read, or is gone."""
        at = self._held.c
        statement = delete(self._held).where(at.seq == row.seq, at.revision == row.revision)
        return (await database.execute(statement.returning(at.seq))).first() is not None

    async def rest(self, database: Database, row: HeldRow, verdict: Rest) -> None:
        """Let the row rest, unless it was changed since it was read."""
        await self._change(
            database,
            row,
            attempts=verdict.attempts,
            next_at=self._in(timedelta(seconds=verdict.delay)),
            last_error=fit(verdict.error),
        )

    async def give_up(self, database: Database, row: HeldRow, verdict: GiveUp) -> bool:
        """Give the row up. False where it was changed since it was read."""
        return await self._change(
            database,
            row,
            state=verdict.state.value,
            attempts=verdict.attempts,
            next_at=None,
            last_error=fit(verdict.reason),
        )

    async def _change(self, database: Database, row: HeldRow, **values: Any) -> bool:
        at = self._held.c
        statement = (
            update(self._held)
            .where(at.seq == row.seq, at.revision == row.revision)
            .values(revision=row.revision + 1, **values)
            .returning(at.seq)
        )
        return (await database.execute(statement)).first() is not None

    async def next_due(self, database: Database) -> float | None:
        """Seconds until the next head is due; None where none waits."""
        at = self._held.c
        statement = select(func.min(at.next_at), self._now).where(at.consumer == self._consumer)
        due, now = (await database.execute(statement)).one()
        return None if due is None else max(0.0, (due - now).total_seconds())


def _key_of(item: ToHold) -> LaneKey | None:
    """The key that it is to hold."""
    if item.envelope is None or (item.is_dead and not item.blocks):
        return None
    return order_key(item.envelope)
