"""The settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from outbox.relay.settings import RelaySettings


@dataclass(frozen=True)
class EngineSettings:
    """The settings of the engine; `relay` has the times of leases and deliveries."""

    name: str = "orchestrator"
    """The name by which participants know who sends, and where answers go."""
    takes_turns: bool = False
    """Whether several processes have this engine, as workers of one application do: on SQLite one
    of them is the node, and the others wait for its end. One without shards leaves starts in the
    database for a node."""
    relay: RelaySettings = field(default_factory=RelaySettings)
    batch: int = 256
    """Runs in one group commit, at most."""
    batch_bytes: int = 8 * 1024 * 1024
    """Bytes of the runs in one group commit and of their signals, about; one run at least."""
    queue: int = 10_000
    """Starts and operators' signals that wait in memory, at most; more are told to come back."""
    queue_bytes: int = 32 * 1024 * 1024
    """Bytes that wait in memory for a commit, about; more are told to come back."""
    cached: int = 20_000
    """Runs kept in memory, at most."""
    cached_bytes: int = 64 * 1024 * 1024
    """Bytes of the runs kept in memory, as they are stored, at most."""
    offered: int = 10_000
    """Messages in memory for each participant and lane, at most."""
    offered_bytes: int = 16 * 1024 * 1024
    """Bytes of the messages in memory for each participant and lane, at most."""
    patience: float = 10.0
    """Seconds that a caller waits for the commit, before it is told to ask again."""
    unsettled: timedelta = timedelta(days=7)
    """Participants are not told of the ends of runs that began within this time, so nodes and
    clocks may differ by less."""
    stuck_to: tuple[str, ...] = ()
    """The services that are told by SagaStuck of each step that gets stuck."""
    remember: timedelta = timedelta(hours=1)
    """How long the ids of group commits, and answers that no node fetched, are kept."""
