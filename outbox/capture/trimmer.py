"""The trimmer: it deletes the messages that readers of the log have taken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.capture.log_reader import LogReader
from outbox.capture.slots import Look, SlotStore
from outbox.clock import Clock
from outbox.coordination.loops import repeat
from outbox.coordination.progress import Progress
from outbox.database.engines import reading, seeing_all
from outbox.tables import Tables

if TYPE_CHECKING:
    from outbox.runtime import Carrier

log = logging.getLogger("outbox.capture")

_AT_ONCE = 1000


@dataclass(frozen=True)
class _Mark:
    """What may be deleted once the reader has confirmed the log up to `place`: the messages of
    transactions whose ids are smaller than `ended_below`."""

    ended_below: int
    place: int


class Trimmer:
    """The trimmer of one service's outbox. `readers` are its readers by their destinations.

    It deletes no row before the slot's reader has confirmed the whole transaction that wrote the
    row, and none that the publication does not show. Where there is no slot or no publication, or
    the log that the slot needs is gone, nothing is deleted. The log of the service says so, and
    where a publication hides messages. Messages that were kept back come into the outbox when they
    are due, as a relay does it. Any number of trimmers may work on one database.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        readers: Mapping[str, LogReader],
        *,
        service: str,
        clock: Clock,
        tables: Tables,
        progress: Progress,
        poll: float,
    ) -> None:
        self._engine = seeing_all(engine)
        self._reading = reading(engine)
        self._store = SlotStore(tables, postgres=True, now=clock.now)
        self._service = service
        self._progress = progress
        self._poll = poll
        self._destinations = list(readers)
        self._served = {
            reader: [name for name, it in readers.items() if it == reader]
            for reader in readers.values()
        }
        self._marks: dict[LogReader, _Mark] = {}
        self._troubles: dict[LogReader, str | None] = {}
        self._are_hidden: set[LogReader] = set()

    async def run_once(self) -> int:
        """Move what is due, and delete what was confirmed since the last time. Returns how many
        rows were moved or deleted."""
        moved = await self._move_due()
        async with self._reading.connect() as connection:
            slots, shown_by = zip(*((it.slot, it.shown_by) for it in self._served), strict=True)
            look = await self._store.look(connection, set(slots), set(shown_by))
        return moved + sum([await self._trim(reader, look) for reader in self._served])

    async def run(self, stop: asyncio.Event) -> None:
        """Repeat this until `stop` is set. Trouble with the database is logged and waited out."""
        await repeat(stop, self._step, "trim what was read", self._progress)

    async def _step(self) -> float:
        return 0.0 if await self.run_once() >= _AT_ONCE else self._poll

    async def _move_due(self) -> int:
        async with self._reading.connect() as connection:
            if not await self._store.any_due(connection, self._destinations):
                return 0
        async with self._engine.begin() as connection:
            return await self._store.move_due(connection, self._destinations, _AT_ONCE)

    async def _trim(self, reader: LogReader, look: Look) -> int:
        slot = look.slots.get(reader.slot)
        trouble = _trouble_of(reader, look)
        if slot is None or trouble is not None:
            # A slot that comes later begins later, and knows nothing of what the mark covers.
            self._marks.pop(reader, None)
            self._tell(reader, trouble)
            return 0
        mark = self._marks.get(reader)
        deleted = 0
        if mark is not None and slot.confirmed >= mark.place:
            shown = look.filters[reader.shown_by] if slot.has_publication else None
            deleted = await self._delete(reader, mark, shown)
            if deleted < _AT_ONCE:
                mark = None
        if mark is None:
            # One place further than the slot is: a slot begins where it is made, and then no reader
            # has read anything.
            self._marks[reader] = _Mark(look.ended_below, max(look.place, slot.confirmed + 1))
        hidden = f"the publication {reader.shown_by} does not show all of them"
        self._tell(reader, hidden if reader in self._are_hidden else None)
        return deleted

    async def _delete(self, reader: LogReader, mark: _Mark, shown: str | None) -> int:
        names = self._served[reader]
        async with self._engine.begin() as connection:
            deleted = await self._store.trim(
                connection,
                names,
                ended_below=mark.ended_below,
                shown=shown,
                keep=reader.keep,
                most=_AT_ONCE,
            )
            are_hidden = await self._store.any_hidden(
                connection, names, ended_below=mark.ended_below, shown=shown
            )
        if are_hidden:
            self._are_hidden.add(reader)
        else:
            self._are_hidden.discard(reader)
        return deleted

    def _tell(self, reader: LogReader, trouble: str | None) -> None:
        if trouble != self._troubles.get(reader):
            names = ", ".join(self._served[reader])
            if trouble is None:
                log.info("%s: the messages for %s are read again", self._service, names)
            else:
                log.warning(
                    "%s: no log reader takes the messages for %s, which stay in the outbox: %s; "
                    "docs/operate/cdc.md says what to do",
                    self._service,
                    names,
                    trouble,
                )
        self._troubles[reader] = trouble


def _trouble_of(reader: LogReader, look: Look) -> str | None:
    slot = look.slots.get(reader.slot)
    if slot is None:
        return f"there is no replication slot {reader.slot}"
    if not slot.is_ours:
        return f"the replication slot {reader.slot} is no logical one of this database"
    if slot.is_lost:
        return f"the log that the replication slot {reader.slot} needs is gone"
    if slot.has_publication and reader.shown_by not in look.filters:
        return f"no publication {reader.shown_by} shows what is inserted there"
    return None


@dataclass(frozen=True)
class Together:
    """A carrier, and beside it a trimmer."""

    carrier: Carrier
    trimmer: Trimmer

    async def run(self, stop: asyncio.Event) -> None:
        """Both, until `stop` is set. Raises what the carrier does, which ends both."""
        trimming = asyncio.create_task(self.trimmer.run(stop))
        try:
            await self.carrier.run(stop)
            await trimming
        finally:
            trimming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await trimming
