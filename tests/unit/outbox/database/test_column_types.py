"""What the library's column types read from the values of each driver."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from outbox.database.column_types import IdInText, UtcDateTime

TIME = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
ID = "01940000-0000-7000-8000-00000000abcd"
POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]  # it has no types
SQLITE = sqlite.dialect()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        ("2026-01-02 03:04:05.000678", TIME),
        ("2026-01-02 03:04:05", TIME.replace(microsecond=0)),
        ("2026-01-02 05:04:05.000678+02:00", TIME),
    ],
)
def test_a_time_of_sqlite_is_read_in_utc(value: str | None, read: datetime | None) -> None:
    found = UtcDateTime().result_processor(SQLITE, None)(value)
    assert found == read
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    "value", [None, TIME, TIME.astimezone(timezone(timedelta(hours=2))), TIME.replace(tzinfo=None)]
)
def test_a_time_of_postgresql_is_read_in_utc(value: datetime | None) -> None:
    found = UtcDateTime().result_processor(POSTGRESQL, None)(value)
    assert found == (None if value is None else TIME)
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("dialect", "value"), [(SQLITE, ID.replace("-", "")), (POSTGRESQL, UUID(ID))]
)
def test_an_id_is_read_as_text(dialect: Any, value: object) -> None:
    assert IdInText().result_processor(dialect, None)(value) == ID
