"""A relay's watch over the pauses of its destinations."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, assert_never

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engines import reading
from outbox.destinations.pause_rows import Noted, PauseRows
from outbox.destinations.pauses import Change, Forgetting, Noting, Pausing, Told, change
from outbox.safe_text import fit

log = logging.getLogger("outbox.relay")


class Watched(Protocol):
    """What the couriers of one destination know together."""

    def told(self) -> Told:
        """What is known since the start."""

    def pause(self, reason: str) -> None:
        """Send nothing from now on."""

    def resume(self) -> None:
        """Send again, and know nothing of what was before the pause."""


class PauseWatch:
    """The watch of one relay. `watched` are its destinations; `pause_after` are the seconds of
    silence after which one is paused, for those that ever are; `owns` tells, within a transaction,
    whether the relay still has a lease of that destination, which it keeps until the end of it."""

    def __init__(
        self,
        engine: AsyncEngine,
        rows: PauseRows,
        watched: Mapping[str, Watched],
        pause_after: Mapping[str, float],
        owns: Callable[[AsyncConnection, str], Awaitable[bool]],
    ) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._rows = rows
        self._watched = watched
        self._pause_after = pause_after
        self._owns = owns
        self.paused: Mapping[str, str] = {}
        """The paused destinations, each with its reason."""
        self.has_looked = False
        """Whether it knows which are paused; before, nothing may be sent."""

    async def look(self) -> None:
        """Find out which destinations are paused, and store what the couriers found."""
        if not self._watched:
            self.has_looked = True
            return
        async with self._reading.connect() as connection:
            noted = await self._rows.read(connection, list(self._watched))
        self._apply({name: it.paused for name, it in noted.items() if it.paused is not None})
        self.has_looked = True
        for name, watched in self._watched.items():
            if name in self.paused:
                continue
            silent_for = noted.get(name, Noted()).silent_for
            found = change(watched.told(), silent_for, self._pause_after.get(name))
            if found is not None:
                await self._store(name, found)

    def _apply(self, paused: Mapping[str, str]) -> None:
        before, self.paused = self.paused, paused
        for name, reason in paused.items():
            if before.get(name) != reason:
                self._watched[name].pause(reason)
                log.error("%s is paused, and nothing is sent to it: %s", name, reason)
        for name in before.keys() - paused.keys():
            self._watched[name].resume()
            log.warning("%s is paused no longer", name)

    async def _store(self, name: str, found: Change) -> None:
        async with self._engine.begin() as connection:
            if not await self._owns(connection, name):
                if isinstance(found, Pausing):
                    # Its new owner will hear the same.
                    self._watched[name].resume()
                return
            match found:
                case Pausing(reason):
                    await self._rows.pause(connection, name, fit(reason))
                case Noting(seconds, reason):
                    await self._rows.note_silence(connection, name, seconds, fit(reason))
                case Forgetting():
                    await self._rows.forget_silence(connection, name)
                case other:
                    assert_never(other)
        if isinstance(found, Pausing):
            self._apply({**self.paused, name: fit(found.reason)})
