"""Destinations as operators see them: which are paused, and their pause and resumption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.destinations.operators import Pause, list_paused, pause, resume

__all__ = ["list_paused", "Pause", "pause", "resume"]

_HOMES = {
    "list_paused": "outbox.destinations.operators",
    "Pause": "outbox.destinations.operators",
    "pause": "outbox.destinations.operators",
    "resume": "outbox.destinations.operators",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
