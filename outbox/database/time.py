"""Time as the database tells it, in SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Interval, Table, func, literal, type_coerce
from sqlalchemy.dialects import postgresql, sqlite

from outbox.database.column_types import UtcDateTime


class DatabaseClock:
    """The base of the relay's stores: times are PostgreSQL's own, so that relays on machines whose
    clocks differ agree; on SQLite, whose processes share a machine, the clock handed in."""

    def __init__(self, *, postgres: bool, now: Callable[[], datetime]) -> None:
        self._postgres = postgres
        self._clock = now

    @property
    def time(self) -> ColumnElement[datetime]:
        """The time now."""
        return self._now

    @property
    def _now(self) -> ColumnElement[datetime]:
        if self._postgres:
            return func.clock_timestamp(type_=UtcDateTime())
        return literal(self._clock(), UtcDateTime())

    def _in(self, delay: timedelta) -> ColumnElement[datetime]:
        if self._postgres:
            later = func.clock_timestamp() + literal(delay, Interval())
            return type_coerce(later, UtcDateTime())
        return literal(self._clock() + delay, UtcDateTime())

    def _insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """The database's INSERT with ON CONFLICT."""
        return postgresql.insert(table) if self._postgres else sqlite.insert(table)
