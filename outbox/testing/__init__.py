"""For tests, of this package and of services that use it: time, crashes, and what was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.testing.tools import FakeClock, crash_at, crash_points, sent

__all__ = ["crash_at", "crash_points", "FakeClock", "sent"]

_HOMES = {
    "crash_at": "outbox.testing.tools",
    "crash_points": "outbox.testing.tools",
    "FakeClock": "outbox.testing.tools",
    "sent": "outbox.testing.tools",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
