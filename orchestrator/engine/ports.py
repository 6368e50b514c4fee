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
from outbox.clock import Clock
from outbox.relay.ports import RelayPorts


@dataclass(frozen=True)
class EnginePorts:
    """The stores of a node and the statements of its group commits. `sleep` is the pause between
    two tries, `event` makes the events that its parts wait for."""

    runs: RunStore
    starts: StartStore
    signals: SignalStore
    statements: CommitStatements
    relay: RelayPorts
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    event: Callable[[], asyncio.Event] = asyncio.Event

    @classmethod
    def of(cls, engine: AsyncEngine, registry: Registry, clock: Clock) -> EnginePorts:
        """The ports on a database."""
        postgres = engine.dialect.name == "postgresql"
        return cls(
            RunStore(registry, postgres=postgres, now=clock.now),
            StartStore(postgres=postgres, now=clock.now),
            SignalStore(postgres=postgres, now=clock.now),
            CommitStatements(registry, postgres=postgres, now=clock.now),
            RelayPorts.of(engine, clock, leased_as=LEASED_AS),
        )


class Outgoing(Protocol):
    """The taker of committed messages."""

    def hand_over(self, messages: Sequence[OutgoingMessage], seqs: Mapping[str, int]) -> None:
        """Take messages that were committed with these numbers."""

    def withdraw(self, ids: frozenset[str]) -> None:
        """Withdraw messages that are gone from the table."""

    def distrust(self, shards: Iterable[int]) -> None:
        """Read the messages of these shards from the table again."""
