"""The lock that admits one node on SQLite, since two could not share the file well."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import IO
from weakref import WeakSet

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import SecondNode
from outbox.database.sqlite_connection import file_of
from outbox.tables import Tables

log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.5
"""Seconds between two looks whether another process is still the node."""

_held: WeakSet[IO[str]] = WeakSet()


def _leave_to_parent() -> None:
    # A fork has the lock as well, and the system would lift it only when both have ended.
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_leave_to_parent)


class OnlyNode:
    """A lock on a file beside the SQLite database. The system lifts it at any end of the process.
    On PostgreSQL it does nothing."""

    def __init__(self, engine: AsyncEngine, tables: Tables) -> None:
        self._path: Path | None = None
        if engine.dialect.name == "sqlite":
            self._path = Path(f"{file_of(engine.url)}.{tables.name('orchestrator')}")
        self._file: IO[str] | None = None

    def claim(self) -> None:
        """Take the lock. Raises SecondNode where another node has it."""
        if self._path is not None and not self.is_ours():
            raise SecondNode(
                f"another orchestrator runs on {self._path.with_suffix('')}",
                next_step="stop that one, or let both use a PostgreSQL database",
            )

    def is_ours(self) -> bool:
        """Whether this is the node: it takes the lock, if no other node has it."""
        if self._path is None or self._file is not None:
            return True
        file = self._path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        _held.add(file)
        return True

    async def until_ours(self, stop: asyncio.Event) -> None:
        """Wait until this is the node, or `stop` is set."""
        if self.is_ours():
            return
        log.info("another process is the node; this one takes over when that one ends")
        while not (stop.is_set() or self.is_ours()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_AGAIN)

    def release(self) -> None:
        """Release the lock for another node."""
        if self._file is not None:
            self._file.close()
            self._file = None
