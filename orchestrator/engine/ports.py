"""The ports of a node: its statements on the database, gathered in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.store.commit_statements import CommitStatements
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.run_store import RunStore
from orchestrator.store.sharding import LEASED_AS
from orchestrator.store.signal_store import SignalStore
from orchestrator.store.start_store import StartStore
from orchestrator.tables import saga_tables
from outbox.clock import Clock
from outbox.relay.ports import RelayPorts
from outbox.tables import DEFAULT_TABLES, Tables


@dataclass(frozen=True)
class EnginePorts:
    """The stores of a node and the statements of its group commits. `sleep` is the pause between
    two tries."""

    runs: RunStore
    starts: StartStore
    signals: SignalStore
    statements: CommitStatements
    relay: RelayPorts
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    @classmethod
    def of(
        cls,
        engine: AsyncEngine,
        registry: Registry,
        clock: Clock,
        tables: Tables = DEFAULT_TABLES,
    ) -> EnginePorts:
        """The ports on a database."""
        own = saga_tables(tables)
        postgres = engine.dialect.name == "postgresql"
        return cls(
            RunStore(registry, own, postgres=postgres, now=clock.now),
            StartStore(own, postgres=postgres, now=clock.now),
            SignalStore(own, postgres=postgres, now=clock.now),
            CommitStatements(registry, own, postgres=postgres, now=clock.now),
            RelayPorts.of(engine, tables, clock, leased_as=LEASED_AS),
        )


class Outgoing(Protocol):
    """The taker of committed messages."""

    def hand_over(self, messages: Sequence[OutgoingMessage], seqs: Mapping[str, int]) -> None:
        """Take messages that were committed with these numbers."""

    def withdraw(self, ids: frozenset[str]) -> None:
        """Withdraw messages that are gone from the table."""

    def distrust(self, shards: Iterable[int]) -> None:
        """Read the messages of these shards from the table again."""
