"""Finds runs that were removed: in the archive, or only that they were there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.errors import ArchiveUnavailable
from orchestrator.retention import files as rows
from orchestrator.retention.archive.archive import Archive, Manifest
from orchestrator.retention.archive.lines import ArchivedRow, InArchive, run_of
from orchestrator.retention.files import FileRow
from orchestrator.store.queries import Tombstone
from orchestrator.tables import saga_tables
from outbox.database.opening import Database

MOST_FILES = 200
"""Files whose manifests are read for one id, at most: those whose ranges of ids have it."""


@dataclass(frozen=True)
class RemovedHistory:
    """When the history of a run was removed before the run, and the archive and the file there,
    without its ending, that have it; none where it was removed for good."""

    at: datetime
    place: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class ArchivedRuns:
    """The runs in that archive, and what the tables of that database say of them."""

    database: Database
    archive: Archive | None

    async def find(self, id: str, tombstone: Tombstone | None = None) -> ArchivedRow | None:
        """The run of that id, or the one that a start of that id was joined to; None where no file
        has it. `tombstone` is what the tables still know of it.

        Raises ArchiveUnavailable where it may be in a file that cannot be read.
        """
        tables = saga_tables(self.database.tables)
        wanted = id if tombstone is None else tombstone.saga_id
        async with self.database.reading.connect() as connection:
            if tombstone is not None:
                if tombstone.archive_id is None:
                    return None
                file = await rows.file_of(connection, tables, tombstone.archive_id)
                files = [] if file is None else [file]
            else:
                files = list(await rows.files_with(connection, tables, id, MOST_FILES + 1))
        trouble: ArchiveUnavailable | None = None
        for file in files[:MOST_FILES]:
            try:
                found = await self._in_file(file, wanted)
            except ArchiveUnavailable as error:
                # It may be in another one, too.
                trouble = trouble or error
                continue
            if found is not None:
                return found
        if trouble is not None:
            raise trouble
        if len(files) > MOST_FILES:
            raise ArchiveUnavailable(
                f"more than {MOST_FILES} files of the archive may have {id}, and the first of them "
                "have it not: look for it in the files themselves",
                retry_after=3600,
            )
        return None

    async def removed_history(self, row: Any) -> RemovedHistory | None:
        """What became of the history of that run, a row of the tables or of the archive, where it
        was removed before the run; else None."""
        if row.history_removed_at is None:
            return None
        tables, id = saga_tables(self.database.tables), row.history_archive_id
        if id is None:
            return RemovedHistory(row.history_removed_at)
        async with self.database.reading.connect() as connection:
            file = await rows.file_of(connection, tables, id)
        if file is None:
            # It is that of another database, from which the run's line was taken.
            return RemovedHistory(row.history_removed_at)
        return RemovedHistory(row.history_removed_at, file.place, file.path)

    async def _in_file(self, file: FileRow, id: str) -> ArchivedRow | None:
        archive = self._opened(file)
        manifest = await asyncio.to_thread(archive.manifest, file.path)
        if manifest is None:
            raise ArchiveUnavailable(f"{file.path} is missing in the archive {file.place}")
        run = manifest.run_of(id)
        if run is None or run in file.left_out:
            return None
        return await asyncio.to_thread(_read, archive, manifest, run)

    def _opened(self, file: FileRow) -> Archive:
        if self.archive is None or self.archive.place != file.place:
            named = "none" if self.archive is None else self.archive.place
            raise ArchiveUnavailable(
                f"it may be in the archive {file.place}, and SAGABOX_ARCHIVE names {named}",
                retry_after=3600,
            )
        return self.archive


def _read(archive: Archive, manifest: Manifest, id: str) -> ArchivedRow:
    where = InArchive(datetime.fromisoformat(manifest.made_at), archive.place, manifest.file)
    try:
        return run_of(archive.line(manifest, id), where)
    except ValueError as error:
        raise ArchiveUnavailable(f"{id} in {manifest.file} cannot be read: {error}") from error
