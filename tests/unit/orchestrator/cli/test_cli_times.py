"""Times as people read them in lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.cli.terminal.times import ago

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (3 * 60, "3 min ago"),
        (1, "1 s ago"),
        (0, "just now"),
        # The date of an answer is up to two seconds older than what the answer tells.
        (-1.9, "just now"),
        (-3, "in 3 s"),
    ],
)
def test_what_has_just_happened_is_never_told_as_to_come(seconds: float, told: str) -> None:
    at = NOW - timedelta(seconds=seconds)
    assert ago(at.isoformat(), NOW) == told
