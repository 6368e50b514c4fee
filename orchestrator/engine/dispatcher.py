"""The dispatcher of the node's commands: a courier for each participant, fed from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.settings import EngineSettings
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.sharding import buckets
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.leases import Leases
from outbox.coordination.loops import repeat
from outbox.coordination.progress import Progress
from outbox.relay.breaker import Silence
from outbox.relay.courier import Courier
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.ports import RelayPorts, Settlement
from outbox.relay.sender import sending_to
from outbox.transports.base import Transport


class Line:
    """The line to one participant."""

    def __init__(self, courier: Courier, memory: MemoryQueue) -> None:
        self.courier = courier
        self.memory = memory
        self.bell = Bell()


class Dispatcher:
    """The dispatcher, which hands each message to the courier of its destination."""

    def __init__(
        self,
        engine: AsyncEngine,
        transports: Mapping[str, Transport],
        settlement: Settlement,
        *,
        name: Callable[[], str],
        clock: Clock,
        settings: EngineSettings,
        ports: RelayPorts,
        progress: Progress,
        chance: Callable[[], float],
    ) -> None:
        self._transports = dict(transports)
        self._progress = progress
        lines: dict[str, Line] = {}
        for destination, transport in transports.items():
            memory = MemoryQueue(settings.offered, settings.offered_bytes)
            courier = Courier(
                engine,
                destination,
                transport,
                name=name,
                clock=clock,
                settings=settings.relay,
                settlement=settlement,
                memory=memory,
                ports=ports,
                moved=progress.of(sending_to(destination)).moved,
                chance=chance,
            )
            lines[destination] = Line(courier, memory)
        self.lines: Mapping[str, Line] = lines

    def lease(self, leases: Leases) -> None:
        """Send the messages of these shards from now on."""
        epochs = {
            bucket: epoch for shard, epoch in leases.epochs.items() for bucket in buckets(shard)
        }
        for line in self.lines.values():
            line.courier.lease(Leases(epochs, leases.until))
            line.bell.ring()

    def hand_over(self, messages: Sequence[OutgoingMessage], seqs: Mapping[str, int]) -> None:
        """Hand over messages that were committed with these numbers."""
        for name, line in self.lines.items():
            mine = [it.pending(seqs[it.envelope.id]) for it in messages if it.destination == name]
            if mine:
                line.memory.offer(mine)
                line.bell.ring()

    def withdraw(self, ids: frozenset[str]) -> None:
        """Withdraw messages that are gone from the table."""
        for line in self.lines.values():
            line.memory.withdraw(ids)

    def distrust(self, shards: Iterable[int]) -> None:
        """Read the messages of these shards from the table again."""
        doubted = [bucket for shard in shards for bucket in buckets(shard)]
        for line in self.lines.values():
            line.courier.distrust(doubted)
            line.bell.ring()

    def silences(self) -> Mapping[str, Silence]:
        """The silences of the participants that give no answer."""
        found = {name: line.courier.silence for name, line in self.lines.items()}
        return {name: silence for name, silence in found.items() if silence is not None}

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, and then finish the deliveries under way."""
        async with asyncio.TaskGroup() as tasks:
            for name, line in self.lines.items():
                tasks.create_task(
                    repeat(stop, line.courier.step, sending_to(name), self._progress, line.bell)
                )
            await stop.wait()
            for line in self.lines.values():
                line.bell.ring()

    async def aclose(self) -> None:
        """Close the transports."""
        for transport in self._transports.values():
            await transport.aclose()
