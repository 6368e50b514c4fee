"""The names of what an installation has in its database: a prefix, and a schema of PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

from sqlalchemy import DDL, Connection, Engine, Index, Inspector, MetaData, Table, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateSchema

from outbox.errors import OutboxError

MAX_PREFIX: Final = 40
"""The most characters of a prefix: PostgreSQL cuts names at 63, and the longest of ours has 21."""

PLAIN_LOCK_SPACE: Final = 0x5A6AB0
"""The first of the two numbers of the advisory locks of an installation without prefix and schema;
a service that takes such locks itself uses another one."""

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_RESERVED = ("pg_", "sqlite_")
# SQLite quotes in the same way.
_quoting = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # untyped


class TableSet:
    """Tables whose names begin with `prefix`, in that schema of PostgreSQL; without one they are
    where the connection looks first.

    Raises OutboxError where a table cannot have such a name.
    """

    def __init__(self, prefix: str = "", schema: str | None = None) -> None:
        self.prefix = _prefix(prefix)
        self.schema = None if schema is None else _schema(schema)
        self.metadata = MetaData(schema=self.schema)
        event.listen(self.metadata, "before_create", self._before_create)

    @property
    def lock_space(self) -> int:
        """The first number of its advisory locks. Two installations with the same one only wait for
        each other."""
        if not self.prefix and self.schema is None:
            return PLAIN_LOCK_SPACE
        return crc32(f"{self.schema or ''}.{self.prefix}".encode()) - 2**31

    def name(self, plain: str) -> str:
        """The name of what is called `plain` without a prefix."""
        return self.prefix + plain

    def in_sql(self, plain: str) -> str:
        """That name as it stands in SQL, with the schema."""
        place = "" if self.schema is None else f"{_quoting.quote(self.schema)}."
        return place + _quoting.quote(self.name(plain))

    def table(
        self, plain: str, *parts: Any, storage: Mapping[str, int] | None = None, **options: Any
    ) -> Table:
        """Declare another table among these, with those storage parameters on PostgreSQL."""
        table = Table(self.name(plain), self.metadata, *parts, **options)
        if storage is not None:
            # SQLAlchemy 2.0 has no storage parameters for tables.
            ddl = DDL(set_storage(in_sql(table), storage))  # type: ignore[no-untyped-call]  # so it is
            event.listen(table, "after_create", ddl.execute_if(dialect="postgresql"))
        return table

    def index(self, plain: str, *columns: Any, **options: Any) -> Index:
        """An index for one of these tables."""
        return Index(self.name(plain), *columns, **options)

    def require(self, engine: Engine) -> None:
        """Raises OutboxError where the database has no place for them, or the engine another."""
        if engine.dialect.name == "sqlite" and self.schema is not None:
            raise OutboxError(
                f"the tables are to be in the schema {self.schema}, and SQLite has no schemas",
                next_step="give them a prefix alone: outbox.Tables(prefix=...)",
            )
        translated = engine.get_execution_options().get("schema_translate_map") or {}
        if self.schema in translated:
            raise OutboxError(
                f"the engine's schema_translate_map has {self.schema!r}, the schema of the "
                "library's tables, and its SQL would look for them there and elsewhere",
                next_step="say where they are: outbox.Tables(schema=...), with a schema that the "
                "map leaves alone",
            )

    def create_schema(self, connection: Connection) -> None:
        """Create their schema on PostgreSQL, unless it is there."""
        if self.schema is not None and not connection.dialect.has_schema(connection, self.schema):
            connection.execute(CreateSchema(self.schema))

    def _before_create(self, _target: MetaData, connection: Connection, **_: Any) -> None:
        self.require(connection.engine)
        self.create_schema(connection)


def in_sql(table: Table) -> str:
    """The name of the table as it stands in SQL, with its schema."""
    return _quoting.format_table(table)


def set_storage(table: str, storage: Mapping[str, int]) -> str:
    """The statement of PostgreSQL that gives a table, by its name in SQL, storage parameters."""
    return f"ALTER TABLE {table} SET ({', '.join(f'{it} = {to}' for it, to in storage.items())})"


def has_table(inspector: Inspector, table: Table) -> bool:
    """Whether the database has a table of that name in its place."""
    return inspector.has_table(table.name, table.schema)


def _prefix(prefix: str) -> str:
    fits = not prefix or (_NAME.fullmatch(prefix) and not prefix.startswith(_RESERVED))
    if not fits or len(prefix) > MAX_PREFIX:
        raise OutboxError(
            f"{prefix!r} cannot be the prefix of the tables",
            next_step=f"use up to {MAX_PREFIX} small letters, digits and _, such as sagabox_",
        )
    return prefix


def _schema(schema: str) -> str:
    if not _NAME.fullmatch(schema) or schema.startswith(_RESERVED) or len(schema) > 63:
        raise OutboxError(
            f"{schema!r} cannot be the schema of the tables",
            next_step="use up to 63 small letters, digits and _, such as messaging",
        )
    return schema
