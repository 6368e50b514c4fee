"""Packets with numbers, sent and read through all that happens to the broker between."""

from __future__ import annotations

import asyncio
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from outbox.transports.brokers.broker import Broker, BrokerAway, Packet, Reading, ReadingLost
from tests.support.processes.waiting import BUSY, until

R = TypeVar("R")
QUEUE = "comments"
PATIENT = 10 * BUSY
"""Seconds to wait for what must come: no server that lives stands still for so long."""
_LAST = 60.0
"""Seconds for the last ones, which may come through faults that still go on."""
_KEYS = 3


def packet(number: int, partition: int = 0, *, key: int | None = None, **headers: str) -> Packet:
    """The packet of that number; without `key` it has one of its own."""
    key = number if key is None else key
    return Packet(
        partition, {"content-type": "text/plain", **headers}, b"%d" % number, f"key-{key}"
    )


def packets(count: int, partition: int = 0, first: int = 0) -> list[Packet]:
    """So many, in the order of their numbers."""
    return [packet(first + number, partition) for number in range(count)]


async def read(reading: Reading, count: int, wait: float = PATIENT) -> list[int]:
    """The numbers of the next ones, not done; fewer where no more come within `wait`."""
    found: list[int] = []
    while len(found) < count:
        taken = await reading.next(count - len(found), wait)
        if not taken:
            break
        found += [int(it.packet.body) for it in taken]
    return found


async def read_all(reading: Reading, count: int, wait: float = 0.1) -> list[int]:
    """The numbers of the next `count`, not done, and of one more where it comes within `wait`."""
    return await read(reading, count) + await read(reading, 1, wait)


async def insisting(call: Callable[[], Awaitable[R]]) -> R:
    """What the call gives once it is answered: for a client whose own patience is short."""
    found: list[R] = []

    async def is_answered() -> bool:
        with suppress(BrokerAway):
            found.append(await call())
        return bool(found)

    await until(is_answered)
    return found[0]


async def read_up_to(reading: Reading, last: int) -> list[int]:
    """The numbers of the next ones, not done, up to this one, which must come."""
    found: list[int] = []
    while last not in found:
        some = await read(reading, 1)
        assert some, f"{last} did not come after {found}"
        found += some
    return found


@asynccontextmanager
async def opened(broker: Broker, partition: int = 0) -> AsyncIterator[Reading]:
    """A reading of the queue, closed at the end of the block."""
    reading = await broker.open(QUEUE, partition)
    try:
        yield reading
    finally:
        await reading.aclose()


async def require_first_kept(broker: Broker, dies: Callable[[], None]) -> None:
    """Packets of a queue that is new, in each partition, are there after a server that `dies` as
    soon as it has taken them, and starts again."""
    first = [
        packet(number, partition) for partition in range(broker.partitions) for number in (0, 1)
    ]
    await insisting(lambda: broker.publish(QUEUE, first))
    await asyncio.to_thread(dies)
    last = [packet(2, partition) for partition in range(broker.partitions)]
    await insisting(lambda: broker.publish(QUEUE, last))
    for partition in range(broker.partitions):
        reading = await insisting(functools.partial(broker.open, QUEUE, partition))
        assert {*await read_up_to(reading, 2)} == {0, 1, 2}, partition
        await reading.aclose()


@dataclass
class Traffic:
    """Senders and readers that go on as the relay and the consumer do: a batch is sent again until
    it is taken, and a reading is opened again when it ends. Each batch has a few keys, which come
    again in it.

    What was sent again, or whose end did not reach the broker, comes again. So the readers stay
    until the broker has nothing left.
    """

    sender: Broker
    reader: Broker
    partitions: int
    batches: int
    size: int = 5
    came: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By partition, the numbers in the order in which they came first."""
    again: int = 0
    sent: int = 0

    async def has_sent(self, batches: int) -> None:
        """Return once so many batches were taken, and more are still to be sent."""
        assert batches < self.partitions * self.batches
        await until(lambda: self.sent >= batches, deadline=_LAST)

    @property
    def is_complete(self) -> bool:
        """Whether all have come."""
        return sum(len(it) for it in self.came.values()) == (
            self.partitions * self.batches * self.size
        )

    async def run(self, trouble: Coroutine[object, object, None] | None = None) -> None:
        """Until the trouble is over, all have come, and nothing waits at the broker."""
        async with asyncio.TaskGroup() as reading:
            readers = [reading.create_task(self._read(it)) for it in range(self.partitions)]
            async with asyncio.TaskGroup() as sending:
                if trouble is not None:
                    sending.create_task(trouble)
                for partition in range(self.partitions):
                    sending.create_task(self._send(partition))
            await self._until_all_done()
            for reader in readers:
                reader.cancel()

    async def _until_all_done(self) -> None:
        left = -1

        async def is_all_done() -> bool:
            nonlocal left
            with suppress(BrokerAway):
                left = await self.reader.waiting(QUEUE)
                return self.is_complete and left == 0
            return False

        try:
            await until(is_all_done, deadline=_LAST)
        except AssertionError as late:
            came = {partition: len(numbers) for partition, numbers in self.came.items()}
            raise AssertionError(f"{late}: {came} came of each partition, {left} wait") from late

    def require_all_in_order(self) -> None:
        """Nothing is lost, and of a key nothing came before what was sent before it. Of two keys in
        a batch the broker may have refused the first one and taken the second."""
        for partition in range(self.partitions):
            came = self.came[partition]
            assert sorted(came) == [*range(self.batches * self.size)], partition
            for key in range(_KEYS):
                of_key = [number for number in came if number % _KEYS == key]
                assert of_key == sorted(of_key), (partition, key)

    async def _send(self, partition: int) -> None:
        for batch in range(self.batches):
            numbers = range(batch * self.size, (batch + 1) * self.size)
            await self._send_batch([packet(it, partition, key=it % _KEYS) for it in numbers])
            self.sent += 1

    async def _send_batch(self, batch: Sequence[Packet]) -> None:
        while True:
            try:
                async with asyncio.timeout(5):
                    return await self.sender.publish(QUEUE, batch)
            except (BrokerAway, TimeoutError):
                await asyncio.sleep(0.02)  # the broker is another process, and may be dead

    async def _read(self, partition: int) -> None:
        known: set[int] = set()
        while True:
            try:
                async with opened(self.reader, partition) as reading:
                    while True:
                        taken = await reading.next(7, 1.0)
                        for each in taken:
                            number = int(each.packet.body)
                            self.again += number in known
                            if number not in known:
                                known.add(number)
                                self.came[partition].append(number)
                        await reading.done(len(taken))
            except (BrokerAway, ReadingLost):
                await asyncio.sleep(0.02)  # the broker is another process, and may be dead
