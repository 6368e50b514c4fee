"""A database of a world that is a SQLite file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.testing.worlds.participants.database import Database, Table
from outbox import sqlite


class SqliteDatabase(Database):
    """A SQLite file whose engines are made safe; quick, since no machine dies here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        self.plain = create_engine(f"sqlite:///{path}")
        for engine in (self.engine.sync_engine, self.plain):
            sqlite.configure(engine)
            event.listen(engine, "connect", _without_flush)
        self._kept = sqlite3.connect(":memory:")

    def tables(self, connection: Connection) -> list[Table]:
        """Its tables, sorted by name."""
        names = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%'"
            " ESCAPE '~' ORDER BY name"
        ).scalars()
        return [_table(connection, name) for name in names]

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

    def remove(self) -> None:
        """Close what is open. The file goes with its folder."""
        self._kept.close()
        self.plain.dispose()


def _table(connection: Connection, name: str) -> Table:
    # A driver takes no table's name as a parameter.
    info = connection.exec_driver_sql(f"PRAGMA table_info({_quoted(name)})").all()
    key = sorted((it.pk, it.name) for it in info if it.pk)
    columns = tuple(it.name for it in info)
    return Table(
        name,
        columns,
        tuple(it for _, it in key),
        f"SELECT {', '.join(map(_quoted, columns))} FROM {_quoted(name)}",
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _without_flush(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()
