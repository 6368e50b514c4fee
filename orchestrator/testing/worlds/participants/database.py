"""The database of a participant, or of the orchestrator, in a world."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox import sqlite

Schema = MetaData | Callable[[Connection], object]
"""The tables of a participant, or a function that makes them."""


class Database:
    """A SQLite file with two ways into it, both made safe; quick, since no machine dies here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        self.plain: Engine = create_engine(f"sqlite:///{path}")
        for engine in (self.engine.sync_engine, self.plain):
            sqlite.configure(engine)
            event.listen(engine, "connect", _without_flush)
        self._kept = sqlite3.connect(":memory:")

    def create(self, *schemas: Schema) -> None:
        """Make these tables."""
        with self.plain.begin() as connection:
            for schema in schemas:
                if isinstance(schema, MetaData):
                    schema.create_all(connection)
                else:
                    schema(connection)

    def keep(self) -> None:
        """Remember the present content."""
        self._copy(to=self._kept)

    def restore(self) -> None:
        """Restore the remembered content."""
        self._copy(back_from=self._kept)

    def _copy(
        self, *, to: sqlite3.Connection | None = None, back_from: sqlite3.Connection | None = None
    ) -> None:
        file = sqlite3.connect(self._path)
        try:
            if to is not None:
                file.backup(to)
            if back_from is not None:
                back_from.backup(file)
        finally:
            file.close()

    async def close(self) -> None:
        """Leave no connection behind."""
        self._kept.close()
        self.plain.dispose()
        await self.engine.dispose()


def _without_flush(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()
