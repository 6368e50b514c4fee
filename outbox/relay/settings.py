"""The settings of a relay's pace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from outbox.retry import OnExhaustion, RetryPolicy


@dataclass(frozen=True)
class DestinationSettings:
    """The settings of one destination, in place of the relay's. `retry` is for its messages that
    fail, and `on_exhaustion` for those that are given up; after `pause_after` seconds without an
    answer it is paused, with None never."""

    retry: RetryPolicy | None = None
    pause_after: float | None = None
    on_exhaustion: OnExhaustion | None = None


@dataclass(frozen=True)
class RelaySettings:
    """The settings of a relay. Times are in seconds. Raises ValueError where they contradict each
    other.

    A bucket whose relay died is taken over after `lease` and up to a third of it. Deliveries stop
    `margin` before a lease ends, and a delivery takes at most `delivery_timeout`, which is shorter:
    so none is still under way when another relay can have the lease.
    """

    lease: float = 12.0
    margin: float = 5.0
    delivery_timeout: float = 4.5
    poll: float = 1.0
    """How long an idle relay waits for the bell before it looks by itself."""
    batch: int = 100
    """Messages in a request, at most."""
    batch_bytes: int = 900 * 1024
    """Bytes in a request, about; a receiver takes 1 MiB."""
    fetch: int = 1000
    """Messages in memory for one destination, at most."""
    fetch_bytes: int = 8 * 1024 * 1024
    """Bytes in memory for one destination, exceeded by at most one message."""
    width: int = 2
    """Requests under way to one destination, for different keys."""
    park_after: float = 60.0
    """Keys that rest longer than this leave the hot table."""
    sweep: float = 30.0
    """How often the low-watermark hint is put aside and everything is looked at."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    on_exhaustion: OnExhaustion = OnExhaustion.DEAD_LETTER_AND_CONTINUE
    """The fate of a message that is given up."""
    destinations: Mapping[str, DestinationSettings] = field(default_factory=dict, hash=False)
    """What single destinations have in place of these, by their names."""

    def __post_init__(self) -> None:
        if not 0 < self.delivery_timeout < self.margin < self.lease * 2 / 3:
            raise ValueError(
                f"delivery_timeout ({self.delivery_timeout}) must be shorter than margin "
                f"({self.margin}), and margin shorter than two thirds of lease ({self.lease}), "
                "since a lease is renewed after a third of it; raise lease, or lower the others"
            )
        for name in ("poll", "batch", "batch_bytes", "fetch", "fetch_bytes", "width", "sweep"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, and is {getattr(self, name)}")

    def of(self, name: str, own: DestinationSettings | None = None) -> RelaySettings:
        """These settings with what the destination of that name has of its own: first what is said
        here, then `own`."""
        known = self.own(name, own)
        return replace(
            self,
            retry=known.retry or self.retry,
            on_exhaustion=known.on_exhaustion or self.on_exhaustion,
        )

    def own(self, name: str, own: DestinationSettings | None = None) -> DestinationSettings:
        """What the destination of that name has of its own, in that order."""
        found, other = self.destinations.get(name), own or DestinationSettings()
        if found is None:
            return other
        return DestinationSettings(
            retry=found.retry or other.retry,
            pause_after=other.pause_after if found.pause_after is None else found.pause_after,
            on_exhaustion=found.on_exhaustion or other.on_exhaustion,
        )
