"""One node: its shards, its committer, its couriers.

Each part has one step. `engine` repeats the steps as long as the process lives; a simulation takes
them in any order that can happen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits.committer import Committer
from orchestrator.engine.commits.items import Answer, Handed
from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.shards import Shards
from orchestrator.engine.watchers import Watchers
from orchestrator.machine.signals import ACCEPTED, Buried
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from outbox.clock import Clock
from outbox.coordination.owners import is_surely_dead
from outbox.coordination.progress import Progress
from outbox.relay.ports import Settlement
from outbox.relay.verdicts import Pending
from outbox.replies import Reply
from outbox.transports.base import Accepted, Transport
from outbox.wire.envelope import Envelope


class Node:
    """One node: it holds leases, sends and commits.

    `name` gives the unique name under which the node holds its leases; when the name changes, the
    leases of the old one are left alone. `watchers` are told of the commits, `progress` of each
    piece of work.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        ports: EnginePorts,
        registry: Registry,
        transports: Mapping[str, Transport],
        watchers: Watchers,
        *,
        clock: Clock,
        ids: Callable[[], str],
        settings: EngineSettings,
        name: Callable[[], str],
        progress: Progress | None = None,
        is_dead: Callable[[str], bool] = is_surely_dead,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.progress = progress or Progress(clock.monotonic)
        self.shards = Shards(
            engine,
            name=name,
            clock=clock,
            settings=settings.relay,
            store=ports.relay.leases,
            changed=self._shards_changed,
            is_dead=is_dead,
            lost=self.progress.lose_leases,
        )
        self.dispatcher = Dispatcher(
            engine,
            transports,
            settlement=_Settlement(self, ports),
            name=name,
            clock=clock,
            settings=settings,
            ports=ports.relay,
            progress=self.progress,
            chance=chance,
        )
        self.committer = Committer(
            engine,
            ports,
            registry,
            self.shards,
            self.dispatcher,
            watchers,
            clock=clock,
            ids=ids,
            settings=settings,
            progress=self.progress,
        )

    def _shards_changed(self, gained: frozenset[int], lost: frozenset[int]) -> None:
        if gained or lost:
            self.committer.shards_changed(gained, lost)
        # Also where only the end of the leases has moved.
        self.dispatcher.lease(self.shards.leases)


class _Settlement(Settlement):
    """The settlement that hands couriers' answers to the committer, and tells runs of dead
    letters."""

    def __init__(self, node: Node, ports: EnginePorts) -> None:
        self._node = node
        self._signals = ports.signals
        self._event = ports.relay.event

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply | Accepted]]
    ) -> asyncio.Event:
        handed = Handed(len(answers), self._event())
        self._node.committer.put(
            Answer(destination, it, answer if isinstance(answer, Reply) else ACCEPTED, handed)
            for it, answer in answers
        )
        return handed.all_decided

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        saga_id = envelope.correlation
        if saga_id is not None:
            kind, payload = signal_rows.dump(Buried(envelope.id, reason))
            shard = shard_of(saga_id)
            await self._signals.add(connection, [(saga_id, shard, kind, payload)])
