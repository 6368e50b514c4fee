"""What the group commits of one node stand on, whichever way each of them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits.changes import Changes
from orchestrator.engine.commits.database_time import DatabaseTime
from orchestrator.engine.commits.recovery import Recovery
from orchestrator.engine.commits.run_cache import RunCache
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.shards import Shards


@dataclass(frozen=True)
class Ground:
    """The database with its statements, and what the node knows of it; `ids` makes the ids of
    commits."""

    engine: AsyncEngine
    ports: EnginePorts
    registry: Registry
    shards: Shards
    cached: RunCache
    time: DatabaseTime
    recovery: Recovery
    ids: Callable[[], str]
    settings: EngineSettings

    @property
    def idle(self) -> float:
        """Seconds for which a transaction may rest: a stopped process must not keep a takeover
        waiting."""
        return self.settings.relay.lease / 4

    def changes(self, connection: AsyncConnection | None, now: datetime) -> Changes:
        """The changes of a new commit, none so far."""
        return Changes(connection, self.ports, self.registry, now, self.settings)
