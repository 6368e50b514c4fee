"""The SQL of retention. Each method is one step of the caller's transaction, and uses an index."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Row,
    Select,
    delete,
    exists,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.machine.instance import Status
from orchestrator.retention.archive.lines import Item, run_item
from orchestrator.retention.pace import within
from orchestrator.retention.remembering import raised, remembered
from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock

AgeOf = Callable[[str, Status], timedelta | None]
"""The age at which something of a run goes, by its saga and its status; None where it stays."""
LINE = 200
"""Bytes of a line of history, about."""


@dataclass(frozen=True)
class Group:
    """The runs of one saga that ended with one status: those older than `before` are to go."""

    name: str
    status: Status
    before: datetime


@dataclass(frozen=True)
class Removed:
    """What a step removed: the runs, and beside them their lines of history and aliases."""

    runs: frozenset[str]
    lines: int = 0
    aliases: int = 0


class RetentionStore(DatabaseClock):
    """The statements on one installation's tables."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    # What is old

    async def names(self, connection: AsyncConnection) -> Sequence[str]:
        """The names of all sagas that were ever run here."""
        name = self._tables.saga_definition.c.name
        return (await connection.scalars(select(name).distinct().order_by(name))).all()

    async def old_runs(
        self, connection: AsyncConnection, group: Group, most: int, most_bytes: int
    ) -> Sequence[str]:
        """The runs of that group that ended first, up to so many and, about, so many bytes; one at
        least, if there are any."""
        saga = self._tables.saga
        size = func.length(saga.c.state) + func.length(saga.c.document) + LINE * saga.c.entries
        found = old(self._tables, group).add_columns(size.label("size"))
        rows = await connection.execute(found.order_by(saga.c.ended_at).limit(most))
        return [row.id for row in within(rows, most_bytes)]

    async def staying(
        self, connection: AsyncConnection, ids: Collection[str], age: AgeOf, now: datetime
    ) -> frozenset[str]:
        """Those of these runs that are there, and that are kept where `age` says at which age such
        a run goes, or its history."""
        saga = self._tables.saga
        statement = select(saga.c.id, saga.c.name, saga.c.status, saga.c.ended_at)
        return frozenset(
            row.id
            for row in await connection.execute(statement.where(saga.c.id.in_(sorted(ids))))
            if is_kept(age(row.name, Status(row.status)), row.ended_at, now)
        )

    async def count_old(
        self, connection: AsyncConnection, group: Group, most: int
    ) -> tuple[int, datetime | None]:
        """How many runs of that group are to go, counted to `most`, and the oldest end."""
        saga = self._tables.saga
        found = old(self._tables, group).add_columns(saga.c.ended_at)
        return await counted_to(connection, found.order_by(saga.c.ended_at), most)

    async def oldest(
        self, connection: AsyncConnection, names: Sequence[str], statuses: Sequence[Status]
    ) -> datetime | None:
        """The oldest end of a run that is there."""
        saga = self._tables.saga
        ends: list[datetime] = []
        for name in names:
            for status in statuses:
                ended = await connection.scalar(
                    select(saga.c.ended_at)
                    .where(saga.c.status == status.value, saga.c.name == name)
                    .where(saga.c.ended_at.is_not(None))
                    .order_by(saga.c.ended_at)
                    .limit(1)
                )
                if ended is not None:
                    ends.append(ended)
        return min(ends, default=None)

    async def runs(self, connection: AsyncConnection, ids: Sequence[str]) -> Sequence[Row[Any]]:
        """The rows of these runs that are there, by their ids."""
        saga = self._tables.saga
        return (
            await connection.execute(select(saga).where(saga.c.id.in_(ids)).order_by(saga.c.id))
        ).all()

    async def items(self, connection: AsyncConnection, ids: Sequence[str]) -> list[Item]:
        """These runs as they are archived, with their histories and aliases."""
        runs = await self.runs(connection, ids)
        history = await self.history(connection, ids)
        aliases = await self.aliases(connection, ids)
        return [run_item(it, history.get(it.id, ()), aliases.get(it.id, ())) for it in runs]

    async def history(
        self, connection: AsyncConnection, ids: Sequence[str]
    ) -> Mapping[str, list[Row[Any]]]:
        """The lines of these runs' histories, in their order."""
        line = self._tables.saga_history
        statement = (
            select(line).where(line.c.saga_id.in_(ids)).order_by(line.c.saga_id, line.c.number)
        )
        return _by_run(await connection.execute(statement))

    async def aliases(
        self, connection: AsyncConnection, ids: Sequence[str]
    ) -> Mapping[str, list[Row[Any]]]:
        """The aliases of these runs."""
        alias = self._tables.saga_alias
        statement = (
            select(alias)
            .where(alias.c.saga_id.in_(ids), alias.c.ended.is_(None))
            .order_by(alias.c.id)
        )
        return _by_run(await connection.execute(statement))

    # Removing runs

    async def remove_runs(
        self,
        connection: AsyncConnection,
        revisions: Mapping[str, int],
        *,
        remember_from: str,
        below: str | None,
        archive_id: str | None,
    ) -> Removed:
        """Delete these runs, over the revisions that they were read in, with their histories and
        aliases. What is known of their ids stays: of those from `remember_from` on a tombstone,
        of the others the watermark, which was at `below`."""
        if not revisions:
            return Removed(frozenset())
        saga, alias = self._tables.saga, self._tables.saga_alias
        read = sorted(revisions.items())
        columns = ("id", "name", "status", "start_id", "originator", "fingerprint", "trace")
        gone = (
            await connection.execute(
                delete(saga)
                .where(tuple_(saga.c.id, saga.c.revision).in_(read))
                .where(saga.c.ended_at.is_not(None))
                .returning(*(saga.c[name] for name in columns))
            )
        ).all()
        if not gone:
            return Removed(frozenset())
        ids = sorted(it.id for it in gone)
        line = self._tables.saga_history
        lines = await connection.execute(delete(line).where(line.c.saga_id.in_(ids)))
        aliases = [it for found in (await self.aliases(connection, ids)).values() for it in found]
        kept = remembered((*ids, *(it.id for it in aliases)), remember_from, below)
        young = [it for it in gone if it.id in kept.tombstones]
        await self._remember_runs(connection, young, archive_id)
        of_run = {it.id: it for it in gone}
        for status, name in sorted({(it.status, it.name) for it in gone}):
            same = [
                it.id
                for it in aliases
                if it.id in kept.tombstones
                and (of_run[it.saga_id].status, of_run[it.saga_id].name) == (status, name)
            ]
            if same:
                await connection.execute(
                    update(alias)
                    .where(alias.c.id.in_(same))
                    .values(ended=status, name=name, archive_id=archive_id)
                )
        old = [it.id for it in aliases if it.id not in kept.tombstones]
        if old:
            await connection.execute(delete(alias).where(alias.c.id.in_(old)))
        await self._raise(connection, below, kept.below)
        return Removed(frozenset(ids), lines.rowcount, len(aliases))

    async def _remember_runs(
        self,
        connection: AsyncConnection,
        gone: Sequence[Row[Any]],
        archive_id: str | None,
    ) -> None:
        tombstones = [
            {
                "id": it.id,
                "saga_id": it.id,
                "originator": it.originator,
                "trace": it.trace,
                "start_id": it.start_id,
                "fingerprint": it.fingerprint,
                "ended": it.status,
                "name": it.name,
                "archive_id": archive_id,
                "made_at": self._clock(),
            }
            for it in gone
        ]
        if tombstones:
            await connection.execute(self._insert(self._tables.saga_alias), tombstones)

    async def _raise(self, connection: AsyncConnection, below: str | None, to: str | None) -> None:
        """Raise the watermark, which was at `below`."""
        if to != below:
            mine = self._tables.saga_retention
            await connection.execute(update(mine).where(mine.c.only == 1).values(below=to))

    # Removing the rest

    async def remove_tombstones(
        self, connection: AsyncConnection, remember_from: str, below: str | None, most: int
    ) -> int:
        """Delete the oldest tombstones whose ids were made before that, and let the watermark cover
        them."""
        alias = self._tables.saga_alias
        found = (
            await connection.scalars(
                select(alias.c.id)
                .where(alias.c.ended.is_not(None), alias.c.id < remember_from)
                .order_by(alias.c.id)
                .limit(most)
            )
        ).all()
        return await self._forget_aliases(connection, found, below)

    async def remove_refused(
        self,
        connection: AsyncConnection,
        before: datetime,
        remember_from: str,
        below: str | None,
        most: int,
    ) -> int:
        """Delete the oldest refused starts that are older than both, and let the watermark cover
        them."""
        found = (await connection.scalars(self._refused(before, remember_from).limit(most))).all()
        return await self._forget_aliases(connection, found, below)

    def _refused(self, before: datetime, remember_from: str) -> Select[Any]:
        alias = self._tables.saga_alias
        return (
            select(alias.c.id)
            .where(alias.c.saga_id.is_(None), alias.c.made_at < before)
            .where(alias.c.id < remember_from)
            .order_by(alias.c.made_at)
        )

    async def count_refused(
        self, connection: AsyncConnection, before: datetime, remember_from: str, most: int
    ) -> int:
        """How many refused starts are older than both, counted to `most`."""
        return await _count(connection, self._refused(before, remember_from), most)

    async def _forget_aliases(
        self, connection: AsyncConnection, ids: Sequence[str], below: str | None
    ) -> int:
        if ids:
            alias = self._tables.saga_alias
            await connection.execute(delete(alias).where(alias.c.id.in_(ids)))
            await self._raise(connection, below, raised(ids, below))
        return len(ids)

    async def remove_keys(self, connection: AsyncConnection, before: str, most: int) -> int:
        """Delete the oldest idempotency keys of starts from before that id whose runs are gone; a
        start that was joined to another run counts by that one."""
        key = self._tables.saga_start_key
        found = (await connection.execute(self._keys(before).limit(most))).all()
        if found:
            names = [(it.name, it.key) for it in found]
            await connection.execute(delete(key).where(tuple_(key.c.name, key.c.key).in_(names)))
        return len(found)

    def _keys(self, before: str) -> Select[tuple[str, str]]:
        key, saga = self._tables.saga_start_key, self._tables.saga
        alias = self._tables.saga_alias
        is_there = exists(select(saga.c.id).where(saga.c.id == key.c.saga_id))
        # An alias that is no tombstone goes with its run.
        is_joined = exists(
            select(alias.c.id)
            .where(alias.c.id == key.c.saga_id)
            .where(alias.c.saga_id.is_not(None), alias.c.ended.is_(None))
        )
        return (
            select(key.c.name, key.c.key)
            .where(key.c.saga_id < before, ~is_there, ~is_joined)
            .order_by(key.c.saga_id)
        )

    async def count_keys(self, connection: AsyncConnection, before: str, most: int) -> int:
        """How many idempotency keys of starts from before that id have no run, counted to
        `most`."""
        return await _count(connection, self._keys(before), most)


def old(tables: SagaTables, group: Group) -> Select[Any]:
    """The ids of the runs of that group that are to go, but for those that were told something."""
    saga, signal = tables.saga, tables.saga_signal
    is_told = exists(select(signal.c.seq).where(signal.c.saga_id == saga.c.id))
    return (
        select(saga.c.id)
        .where(saga.c.status == group.status.value, saga.c.name == group.name)
        .where(saga.c.ended_at.is_not(None), saga.c.ended_at < group.before)
        # A signal that lies there is applied first.
        .where(~is_told)
    )


def is_kept(age: timedelta | None, ended_at: datetime | None, now: datetime) -> bool:
    """Whether what ended then stays, where it goes at that age; None keeps it for ever."""
    return age is None or ended_at is None or ended_at >= now - age


async def counted_to(
    connection: AsyncConnection, found: Select[Any], most: int
) -> tuple[int, datetime | None]:
    """How many runs are found, counted to `most`, and the oldest of their `ended_at`."""
    counted = found.limit(most).subquery()
    row = (await connection.execute(select(func.count(), func.min(counted.c.ended_at)))).one()
    return row[0], row[1]


async def _count(connection: AsyncConnection, found: Select[Any], most: int) -> int:
    counted = select(func.count()).select_from(found.limit(most).subquery())
    return int((await connection.execute(counted)).scalar_one())


def _by_run(rows: Any) -> Mapping[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    for row in rows:
        found.setdefault(row.saga_id, []).append(row)
    return found
