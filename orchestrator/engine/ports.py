"""What a node touches of its database: the statements, gathered in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.shards import LEASED_AS
from orchestrator.store.commit_statements import Writing
from orchestrator.store.run_store import SagaStore
from outbox.clock import Clock
from outbox.relay.ports import RelayPorts


@dataclass(frozen=True)
class EnginePorts:
    """`sleep` is how it waits between two tries, `event` makes what its parts wait for each
    other with."""

    sagas: SagaStore
    writing: Writing
    relay: RelayPorts
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    event: Callable[[], asyncio.Event] = asyncio.Event

    @classmethod
    def of(cls, engine: AsyncEngine, registry: Registry, clock: Clock) -> EnginePorts:
        """Those of a database."""
        postgres = engine.dialect.name == "postgresql"
        return cls(
            SagaStore(registry, postgres=postgres, now=clock.now),
            Writing(registry, postgres=postgres, now=clock.now),
            RelayPorts.of(engine, clock, leased_as=LEASED_AS),
        )
