"""The dispatcher of the node's commands: couriers for each participant, fed from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.settings import EngineSettings
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.sharding import bucket
from outbox.clock import Clock
from outbox.coordination.bell import Bell
from outbox.coordination.leases import Leases
from outbox.coordination.loops import repeat
from outbox.coordination.progress import Progress, Work
from outbox.lanes import Lane, lane_of
from outbox.relay.breaker import Silence
from outbox.relay.condition import Condition
from outbox.relay.courier import Courier
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.ports import RelayPorts, Settlement
from outbox.relay.sender import sending_to
from outbox.relay.verdicts import Pending
from outbox.transports.base import Transport


class Line:
    """The line to one participant in one lane, with a loop of rounds for each of its `purposes`."""

    def __init__(
        self,
        destination: str,
        lane: Lane,
        courier: Courier,
        memory: MemoryQueue,
        purposes: Sequence[str],
    ) -> None:
        self.destination = destination
        self.lane = lane
        self.courier = courier
        self.memory = memory
        self.purposes = purposes
        self.bell = Bell()


class Dispatcher:
    """The dispatcher, which hands each message to the courier of its destination and lane. So no
    undo waits for actions that are under way."""

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
        relay = settings.relay
        self._conditions = {
            destination: Condition(
                destination, clock=clock, batch=relay.batch, chance=chance, event=ports.event
            )
            for destination in transports
        }
        lines: dict[str, Line] = {}
        for destination, transport in transports.items():
            for lane in Lane:
                memory = MemoryQueue(settings.offered, settings.offered_bytes)
                purposes = _purposes(destination, lane, relay.width)
                works = [progress.of(it) for it in purposes]
                courier = Courier(
                    engine,
                    destination,
                    transport,
                    self._conditions[destination],
                    name=name,
                    clock=clock,
                    settings=relay.of(destination),
                    settlement=settlement,
                    memory=memory,
                    ports=ports,
                    moved=partial(_moved, works),
                    chance=chance,
                )
                line = Line(destination, lane, courier, memory, purposes)
                lines[f"{destination} {lane.name.lower()}"] = line
        self.lines: Mapping[str, Line] = lines

    def lease(self, leases: Leases) -> None:
        """Send the messages of these shards from now on."""
        for line in self.lines.values():
            epochs = {bucket(line.lane, it): epoch for it, epoch in leases.epochs.items()}
            line.courier.lease(Leases(epochs, leases.until))
            line.bell.ring()

    def hand_over(self, messages: Sequence[OutgoingMessage], seqs: Mapping[str, int]) -> None:
        """Hand over messages that were committed with these numbers."""
        offered: dict[tuple[str, Lane], list[Pending]] = {}
        for it in messages:
            place = it.destination, lane_of(it.bucket)
            offered.setdefault(place, []).append(it.pending(seqs[it.envelope.id]))
        for line in self.lines.values():
            mine = offered.get((line.destination, line.lane))
            if mine:
                line.memory.offer(mine)
                line.bell.ring()

    def withdraw(self, ids: frozenset[str]) -> None:
        """Withdraw messages that are gone from the table."""
        for line in self.lines.values():
            line.memory.withdraw(ids)

    def distrust(self, shards: Iterable[int]) -> None:
        """Read the messages of these shards from the table again."""
        doubted = list(shards)
        for line in self.lines.values():
            line.courier.distrust(bucket(line.lane, it) for it in doubted)
            line.bell.ring()

    def silences(self) -> Mapping[str, Silence]:
        """The silences of the participants that give no answer."""
        found = {name: condition.silence for name, condition in self._conditions.items()}
        return {name: silence for name, silence in found.items() if silence is not None}

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, and then finish the deliveries under way."""
        async with asyncio.TaskGroup() as tasks:
            for line in self.lines.values():
                for purpose in line.purposes:
                    tasks.create_task(
                        repeat(stop, line.courier.step, purpose, self._progress, line.bell)
                    )
            await stop.wait()
            for line in self.lines.values():
                line.bell.ring()

    async def aclose(self) -> None:
        """Close the transports."""
        for transport in self._transports.values():
            await transport.aclose()


def _purposes(destination: str, lane: Lane, width: int) -> Sequence[str]:
    """The purposes of the loops for that lane. Each is a work of its own, so that none hides that
    another hangs."""
    purpose = sending_to(destination)
    if lane is Lane.URGENT:
        return [f"{purpose}, urgently"]
    return [purpose, *(f"{purpose}, {number}" for number in range(2, width + 1))]


def _moved(works: Sequence[Work]) -> None:
    """Tell that a delivery of one of the loops came to its end: the others may wait for it."""
    for work in works:
        work.moved()
