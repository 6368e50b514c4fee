"""Leases, by which relays share the buckets of a destination.

Pure: the arithmetic. `lease_store` has the statements, `lease_keeper` keeps the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from outbox.lanes import BUCKETS


@dataclass(frozen=True, slots=True)
class Leases:
    """The buckets of one destination that a relay holds, each with its epoch.

    They may be used until the monotonic time `until`: the moment *before* they were last renewed,
    plus their time to live, less the margin in which a delivery that has begun can end.
    """

    epochs: Mapping[int, int] = field(default_factory=dict)
    until: float = 0.0

    def usable(self, now: float) -> Mapping[int, int]:
        """The buckets that a delivery may begin for at `now`, with their epochs."""
        return self.epochs if now < self.until else {}


def fair_share(relays: int, buckets: int = len(BUCKETS)) -> int:
    """The number of buckets that each relay should hold, at least 1."""
    return max(1, -(-buckets // max(1, relays)))


def in_excess(held: Mapping[int, int], relays: int, buckets: int = len(BUCKETS)) -> tuple[int, ...]:
    """The buckets to give back, so that others get their share: some of every lane."""
    surplus = len(held) - fair_share(relays, buckets)
    return tuple(sorted(held, key=_mirrored)[:surplus]) if surplus > 0 else ()


def _mirrored(bucket: int) -> int:
    """The number with its bits reversed, so that neighbours stand far apart."""
    return int(f"{bucket:05b}"[::-1], 2)
