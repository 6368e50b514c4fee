"""The lock that admits one node on SQLite, since two could not share the file well."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.errors import SecondNode
from outbox.tables import Tables


class OnlyNode:
    """A lock on a file beside the SQLite database. The system lifts it at any end of the process.
    On PostgreSQL it does nothing."""

    def __init__(self, engine: AsyncEngine, tables: Tables) -> None:
        database = engine.url.database if engine.dialect.name == "sqlite" else None
        self._path = None if database is None else Path(f"{database}.{tables.name('orchestrator')}")
        self._file: IO[str] | None = None

    def claim(self) -> None:
        """Take the lock. Raises SecondNode where another node has it."""
        if self._path is None or self._file is not None:
            return
        file = self._path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise SecondNode(
                f"another orchestrator runs on {self._path.with_suffix('')}",
                next_step="stop that one, or let both use a PostgreSQL database",
            ) from None
        self._file = file

    def release(self) -> None:
        """Release the lock for another node."""
        if self._file is not None:
            self._file.close()
            self._file = None
