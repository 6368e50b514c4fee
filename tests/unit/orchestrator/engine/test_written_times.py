"""Times as they are written, on the wire and into a database's rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest

from orchestrator.store import bulk
from outbox.wire.attributes import written


class Frozen(datetime):
    """A time of a library that replaces the clock in tests, or knows calendars."""


@pytest.mark.parametrize("kind", [datetime, Frozen])
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
@pytest.mark.parametrize("parts", [(2030, 1, 31, 12, 0, 0), (1, 2, 3, 4, 5, 6, 7)])
def test_a_time_of_any_kind_is_written_as_the_same_moment(
    kind: type[datetime], zone: timezone, parts: tuple[int, int, int, int, int, int]
) -> None:
    time = kind(*parts, tzinfo=zone) + timedelta(days=1)
    text = written(time)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == time
    assert text == time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    [stored] = orjson.loads(bulk.document([bulk.Values(postgres=True).time(time)]))
    assert stored == time.isoformat()
