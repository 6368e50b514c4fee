"""How the engine paces itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from outbox.relay_settings import RelaySettings


@dataclass(frozen=True)
class EngineSettings:
    """`relay` has the times of leases and deliveries, which the engine shares."""

    relay: RelaySettings = field(default_factory=RelaySettings)
    batch: int = 256
    """Runs in one group commit, at most."""
    queue: int = 10_000
    """Starts and signals of people that wait in memory, at most; more are told to come back."""
    cached: int = 20_000
    """Runs kept in memory, at most."""
    offered: int = 10_000
    """Messages in memory for each participant, at most."""
    patience: float = 10.0
    """Seconds that one who asks waits for the commit, before being told to ask again."""
    start_window: timedelta = timedelta(days=7)
    """How old a start may be that comes by a message; an older one is refused."""
    remember: timedelta = timedelta(hours=1)
    """How long the ids of group commits, and answers nobody came for, are kept."""
