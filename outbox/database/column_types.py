"""The types of the tables' columns, alike on PostgreSQL and SQLite, and rows of them as parameters.

Ids and times are text and aware datetimes in Python on both databases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Integer,
    TableValuedAlias,
    Uuid,
    bindparam,
    column,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler, SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
"""Between these lie the moments that a driver can tell in every time zone."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also on SQLite, which forgets the zone. Naive values are refused.

    On PostgreSQL a moment at the edge of all years is stored a day within, since psycopg reads in
    the zone of the session, in which it may lie beyond: no statement that meets it could be read.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; times are stored in UTC")
        value = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return value.replace(tzinfo=None)
        return max(_FIRST, min(value, _LAST))

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], datetime | None]:
        # One call for each value, since a relay reads many of them.
        return _time_in_text if dialect.name == "sqlite" else _in_utc


_LENGTH = len("2026-01-01 00:00:00.000000")
"""Of a time as this type writes it on SQLite."""


def _time_in_text(value: str | None) -> datetime | None:
    if value is None:
        return None
    if len(value) == _LENGTH:
        return datetime.fromisoformat(value + "+00:00")
    return _in_utc(datetime.fromisoformat(value))


def _in_utc(value: datetime | None) -> datetime | None:
    if value is None or value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class IdInText(UserDefinedType[str]):
    """An id in a result, as the text that it is in Python: for statements that read many."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], str]:
        return _with_dashes if dialect.name == "sqlite" else str


def _with_dashes(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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


PLACE = "place"
"""The column that numbers given rows, from 1."""


def given(columns: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """The rows that a statement for PostgreSQL is given, as a table with `PLACE`. A column `id` is
    bound as the list `ids`.

    The text of the statement, and with it the prepared statement, is the same for every number of
    rows.
    """
    arrays = [bindparam(f"{name}s", type_=ARRAY(kind)) for name, kind in columns.items()]
    names = [column(name, kind) for name, kind in columns.items()]
    unnested = func.unnest(*arrays).table_valued(*names, with_ordinality=PLACE, name="given")
    return unnested.render_derived()
