"""How the engine paces itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from outbox.relay.settings import RelaySettings


@dataclass(frozen=True)
class EngineSettings:
    """`relay` has the times of leases and deliveries, which the engine shares."""

    relay: RelaySettings = field(default_factory=RelaySettings)
    batch: int = 256
    """Runs in one group commit, at most."""
    batch_bytes: int = 8 * 1024 * 1024
    """Bytes of the runs in one group commit, and of what they are told, about; one run at least."""
    queue: int = 10_000
    """Starts and signals of people that wait in memory, at most; more are told to come back."""
    queue_bytes: int = 32 * 1024 * 1024
    """Bytes that wait in memory for a commit, about; more are told to come back."""
    cached: int = 20_000
    """Runs kept in memory, at most."""
    cached_bytes: int = 64 * 1024 * 1024
    """Bytes of the runs kept in memory, as they are stored, at most."""
    offered: int = 10_000
    """Messages in memory for each participant, at most."""
    offered_bytes: int = 16 * 1024 * 1024
    """Bytes of the messages in memory for each participant, at most."""
    patience: float = 10.0
    """Seconds that one who asks waits for the commit, before being told to ask again."""
    unsettled: timedelta = timedelta(days=7)
    """Of runs that began within this time participants are not told whether they have ended, so
    that nodes, and clocks, may differ by less."""
    remember: timedelta = timedelta(hours=1)
    """How long the ids of group commits, and answers nobody came for, are kept."""
