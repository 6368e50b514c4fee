"""What is to be archived goes in two steps.

First a file is written: the tables say that it is being written, and still have all that is in it.
Once the file is whole, the second step removes what is in it, and says so, in one transaction. A
process that dies in between leaves a file that the next round finds: it goes on with a whole one,
and discards any other. One in an archive that is named no longer it leaves as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import ArchiveNotNamed, ArchiveUnavailable
from orchestrator.retention.archive.archive import Archive, Manifest
from orchestrator.retention.archive.lines import Item
from orchestrator.retention.files import FileRow
from orchestrator.retention.lease import LostLease
from orchestrator.retention.rounds.turns import Turns
from outbox.crashpoints import crashpoint

log = logging.getLogger(__name__)


class Archivable(Protocol):
    """Things of one kind that go to the archive, where there is one."""

    @property
    def kind(self) -> str:
        """The kind of their files."""

    async def next(self, connection: AsyncConnection) -> Sequence[Item] | None:
        """The next ones, perhaps none; None after the last."""

    async def staying(self, connection: AsyncConnection, ids: Collection[str]) -> frozenset[str]:
        """Those of these that are to stay by now."""

    async def remove(
        self, connection: AsyncConnection, revisions: Mapping[str, int], archive_id: str | None
    ) -> frozenset[str]:
        """Remove these over the revisions that they were read in. Returns those that went."""


class Archiving:
    """The two steps, for all kinds."""

    def __init__(self, turns: Turns, kinds: Sequence[Archivable]) -> None:
        self._turns = turns
        self._means = turns.means
        self._files = turns.means.files
        self._kinds = {it.kind: it for it in kinds}

    async def remove(self, what: Archivable) -> bool:
        """Archive and remove the next ones. Whether there may be more."""
        archive = self._means.archive
        async with self._turns.fenced() as connection:
            items = await what.next(connection)
            if items is None:
                return False
            if not items:
                return True
            if archive is None:
                await what.remove(connection, {it.id: it.revision for it in items}, None)
                return True
            file = await self._noted(connection, what, items, archive)
        await self._archive(what, file, items, archive)
        return True

    async def _noted(
        self,
        connection: AsyncConnection,
        what: Archivable,
        items: Sequence[Item],
        archive: Archive,
    ) -> FileRow:
        id = self._means.ids()
        path = archive.path(what.kind, id, self._turns.now)
        ids = [other[:_ID] for it in items for other in (it.id, *it.also)]
        await self._files.add_file(
            connection, id=id, kind=what.kind, place=archive.place, path=path, ids=ids
        )
        return FileRow(id, what.kind, archive.place, path, frozenset())

    async def _archive(
        self, what: Archivable, file: FileRow, items: Sequence[Item], archive: Archive
    ) -> None:
        crashpoint("retention: file noted, before it is written")
        manifest: Manifest = await self._means.aside(
            archive.write, file.kind, file.path, items, self._turns.now
        )
        crashpoint("retention: archived, before removal")
        try:
            await self._remove_archived(what, file.id, manifest)
        except LostLease:
            # The process that took over uses the file where it found it whole.
            async with self._means.database.reading.connect() as connection:
                is_known = await self._files.knows_file(connection, file.id)
            if not is_known:
                await self._means.aside(archive.discard, file.path)
            raise

    async def _remove_archived(self, what: Archivable, id: str, manifest: Manifest) -> None:
        """Remove what is in that file, which is whole."""
        async with self._turns.fenced() as connection:
            gone = await what.remove(connection, manifest.items, id)
            left_out = manifest.items.keys() - gone
            await self._files.keep_file(connection, id, len(gone), left_out)
            crashpoint("retention: removed, before commit")
        self._means.tally.archived[what.kind] += len(gone)
        crashpoint("retention: after commit")

    # Files that were left behind

    async def finish(self) -> bool:
        """Go on with the files that processes left behind. Afterwards there are none."""
        async with self._turns.fenced() as connection:
            files = await self._files.unfinished(connection)
        for file in files:
            await self._finish(file)
        return False

    async def _finish(self, file: FileRow) -> None:
        what = self._kinds.get(file.kind)
        if what is None:
            raise ArchiveUnavailable(
                f"a newer version left the file {file.path} in the archive {file.place}: let a "
                f"process of that version finish it, since this one knows no {file.kind!r}"
            )
        archive = self._means.archive
        if archive is None and not self._means.for_good:
            raise ArchiveNotNamed(file.place)
        if archive is None or archive.place != file.place:
            # That archive may be full or gone for good; what is in the file is still in the tables.
            log.warning(
                "the file %s was not finished, and is left as it is in the archive %s: what was to "
                "be in it is removed anew",
                file.path,
                file.place,
            )
            await self._forget(file)
            return
        manifest: Manifest | None = await self._means.aside(archive.whole, file.path)
        if manifest is not None and not await self._staying(what, manifest):
            await self._remove_archived(what, file.id, manifest)
            return
        await self._means.aside(archive.discard, file.path)
        await self._forget(file)

    async def _forget(self, file: FileRow) -> None:
        """Forget it under the lease: a process that still writes it can do nothing with it then."""
        async with self._turns.fenced() as connection:
            await self._files.forget_file(connection, file.id)

    async def _staying(self, what: Archivable, manifest: Manifest) -> frozenset[str]:
        """What is in that file and stays after all: the policy may be another one than that of the
        process which wrote it. The rest is written again."""
        async with self._turns.fenced() as connection:
            return await what.staying(connection, manifest.items.keys())


_ID = 36
"""Characters of an id; the key of a dead letter begins with one."""
