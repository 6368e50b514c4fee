"""The types of the tables' columns, alike on PostgreSQL and SQLite.

Ids and times are text and aware datetimes in Python on both databases.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Dialect, Integer, Uuid
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler, SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator, UserDefinedType


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also on SQLite, which forgets the zone. Naive values are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; times are stored in UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id; a plain integer elsewhere."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


# Without this a tool that reflects the tables, as Alembic does, is warned of an unknown type.
ischema_names.setdefault("xid8", Xid8)


@compiles(Xid8, "sqlite")
def _xid8_on_sqlite(_type: Xid8, _compiler: DDLCompiler, **_: Any) -> str:
    return "BIGINT"


class CurrentTransactionId(GenericFunction[int]):
    """The id of the running transaction; 0 on SQLite, which has one writer at a time."""

    type = Xid8()
    inherit_cache = True


@compiles(CurrentTransactionId)
def _current_transaction_id(_f: Any, _compiler: SQLCompiler, **_: Any) -> str:
    return "pg_current_xact_id()"


@compiles(CurrentTransactionId, "sqlite")
def _no_transaction_id(_f: Any, _compiler: SQLCompiler, **_: Any) -> str:
    return "0"


def id_column(name: str = "id", *, nullable: bool = False) -> Column[str]:
    """A column for an id, which is text in Python."""
    return Column(name, Uuid(as_uuid=False), nullable=nullable)


SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")
"""The type of a column that the database numbers."""
