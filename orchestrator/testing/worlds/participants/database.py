"""The database of a participant, or of the orchestrator, in a world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

Schema = MetaData | Callable[[Connection], object]
"""The tables of a participant, or a function that makes them."""


@dataclass(frozen=True)
class Table:
    """A table, with the names of its columns and of those of its primary key. `query` reads its
    rows."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    query: str


class Database(ABC):
    """A database with two ways into it. It belongs to the world alone."""

    engine: AsyncEngine
    plain: Engine

    def create(self, *schemas: Schema) -> None:
        """Make these tables."""
        with self.plain.begin() as connection:
            for schema in schemas:
                if isinstance(schema, MetaData):
                    schema.create_all(connection)
                else:
                    schema(connection)

    @abstractmethod
    def tables(self, connection: Connection) -> Sequence[Table]:
        """Its tables, sorted by name."""

    @abstractmethod
    def keep(self) -> None:
        """Remember the present content."""

    @abstractmethod
    def restore(self) -> None:
        """Restore the remembered content."""

    @abstractmethod
    def remove(self) -> None:
        """Leave nothing behind of it, where its `engine` has no connection."""

    async def close(self) -> None:
        """Leave nothing behind of it, and no connection."""
        try:
            await self.engine.dispose()
        finally:
            self.remove()
