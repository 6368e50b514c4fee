"""The SQL about the files of the archive. Each method is one step of the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.lease import LostLease
from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock

RUNS, HISTORIES, LETTERS = "runs", "histories", "letters"
"""The kinds of files in the archive."""


class FileState(StrEnum):
    """How far a file of the archive is."""

    WRITING = "writing"
    """Perhaps it is there in part; what is in it is still in the tables."""
    KEPT = "kept"
    """It is whole, and what is in it was removed from the tables."""


@dataclass(frozen=True)
class FileRow:
    """A file of the archive."""

    id: str
    kind: str
    place: str
    path: str
    left_out: frozenset[str]


class FileStore(DatabaseClock):
    """The files that the tables of one installation know."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def add_file(
        self,
        connection: AsyncConnection,
        *,
        id: str,
        kind: str,
        place: str,
        path: str,
        ids: Sequence[str],
    ) -> None:
        """Note that a file is about to be written; `ids` are all that it will be found by."""
        await connection.execute(
            self._tables.saga_archive.insert().values(
                id=id,
                state=FileState.WRITING.value,
                kind=kind,
                place=place,
                path=path,
                first_id=min(ids),
                last_id=max(ids),
                items=len(ids),
                left_out="[]",
                made_at=self._now,
            )
        )

    async def unfinished(self, connection: AsyncConnection) -> Sequence[FileRow]:
        """The files that were being written when their processes ended."""
        file = self._tables.saga_archive
        statement = select(file).where(file.c.state == FileState.WRITING.value).order_by(file.c.id)
        return [_file(it) for it in await connection.execute(statement.limit(100))]

    async def newest(self, connection: AsyncConnection, place: str | None) -> FileRow | None:
        """The file that was made last in that archive, or in any, of those with what was
        removed."""
        file = self._tables.saga_archive
        statement = select(file).where(file.c.state == FileState.KEPT.value)
        if place is not None:
            statement = statement.where(file.c.place == place)
        newest = await connection.execute(statement.order_by(file.c.id.desc()).limit(1))
        row = newest.one_or_none()
        return None if row is None else _file(row)

    async def keep_file(
        self, connection: AsyncConnection, id: str, items: int, left_out: Collection[str]
    ) -> None:
        """Note that the file is whole, and what is in it was removed, but for what is left out.
        Raises LostLease where it is unfinished no longer."""
        file = self._tables.saga_archive
        result = await connection.execute(
            update(file)
            .where(file.c.id == id, file.c.state == FileState.WRITING.value)
            .values(
                state=FileState.KEPT.value,
                items=items,
                left_out=orjson.dumps(sorted(left_out)).decode(),
            )
        )
        if result.rowcount != 1:
            raise LostLease

    async def knows_file(self, connection: AsyncConnection, id: str) -> bool:
        """Whether the tables still speak of that file."""
        file = self._tables.saga_archive
        return await connection.scalar(select(file.c.id).where(file.c.id == id)) is not None

    async def forget_file(self, connection: AsyncConnection, id: str) -> None:
        """Forget a file that has nothing which was removed."""
        file = self._tables.saga_archive
        await connection.execute(
            delete(file).where(file.c.id == id, file.c.state == FileState.WRITING.value)
        )


async def file_of(connection: AsyncConnection, tables: SagaTables, id: str) -> FileRow | None:
    """The file of that id, once what is in it was removed."""
    file = tables.saga_archive
    statement = select(file).where(file.c.id == id, file.c.state == FileState.KEPT.value)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _file(row)


async def files_with(
    connection: AsyncConnection, tables: SagaTables, id: str, most: int
) -> Sequence[FileRow]:
    """The files of runs whose ids begin and end around that one, the narrowest first as far as
    their beginnings tell."""
    file = tables.saga_archive
    statement = (
        select(file)
        .where(file.c.kind == RUNS, file.c.first_id <= id, file.c.last_id >= id)
        .where(file.c.state == FileState.KEPT.value)
        .order_by(file.c.first_id.desc())
        .limit(most)
    )
    return [_file(it) for it in await connection.execute(statement)]


def _file(row: Row[Any]) -> FileRow:
    return FileRow(row.id, row.kind, row.place, row.path, frozenset(orjson.loads(row.left_out)))
