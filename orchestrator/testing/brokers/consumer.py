"""The consumer of a queue in a history: the library's readers, in processes that die and stand
still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from orchestrator.testing.brokers.broker import BrokerClient, VirtualBroker
from orchestrator.testing.brokers.holding import VirtualHolding
from orchestrator.testing.brokers.witness import Witness
from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.network import Post, Receiver
from orchestrator.testing.virtual.process import ProcessClock
from orchestrator.testing.virtual.service import Service
from orchestrator.testing.virtual.timeline import Gate, Step, Timeline, Wait
from outbox.crashpoints import Crash
from outbox.errors import TransactionLost
from outbox.inbox.answering import is_told_afterwards
from outbox.replies import Reply
from outbox.transports.brokers.partition_reader import PartitionReader, Waits
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

T = TypeVar("T")

_LONGEST_STOP = 8.0
"""Seconds for which a reader stands still while another one takes its partition over."""

_FORGETTING = 4.0
"""Seconds between two times at which a participant forgets."""


class VirtualConsumer:
    """The consumer of the queue of `receiver`, whose name is `name`: a reader for each partition,
    and now and then two. A batch takes `latency` seconds, at least and at most, before it is
    handled and after. `settled` tells which runs have ended."""

    def __init__(
        self,
        timeline: Timeline,
        chances: Chances,
        name: str,
        receiver: Receiver,
        broker: VirtualBroker,
        keys: Keyring,
        post: Post,
        witness: Witness,
        latency: tuple[float, float],
        trace: Callable[..., None],
        settled: Callable[[], EndedSagas | None],
    ) -> None:
        self.name = name
        self.broker = broker
        self._timeline = timeline
        self._chances = chances
        self._receiver = receiver
        self._keys = keys
        self._post = post
        self._witness = witness
        self._latency = latency
        self._trace = trace
        self._settled = settled
        self._holding = VirtualHolding(
            timeline, chances, witness, ProcessClock(timeline).now, self._handle, self._tell
        )
        self._readers: dict[int, _Reader] = {}
        self._steps: list[Step] = []
        self._forgets = False

    @property
    def left(self) -> int:
        """How many messages are not done."""
        return self.broker.left + self._holding.left

    async def start(self) -> None:
        """Read all partitions."""
        for partition in range(self.broker.partitions):
            self._read(partition)

    def meddle(self) -> None:
        """Make the troubles that come by themselves."""
        chances = self._chances
        if chances.fault(Fault.BROKER_AWAY):
            self._trace("has no broker", self.name)
            self.broker.cut(chances.between(Number.LENGTH, 0.3, 10.0))
        if chances.fault(Fault.FORGOTTEN) and not self._forgets:
            self._forgets = True
            self._timeline.after(0.0, self._forget)
        for partition, reader in self._readers.items():
            if chances.fault(Fault.TAKEOVER):
                self._trace("takes over", self.name, partition)
                reader.stand_still(self._timeline.now + self._moment())
                self._timeline.after(self._moment(), reader.lose)
                self._read(partition)

    def heal(self) -> None:
        """Let all go on."""
        self.broker.heal()

    async def _forget(self) -> None:
        """Let the participant forget what belongs to runs that have ended, again and again."""
        if isinstance(self._receiver, Service):
            self._receiver.forget(self._settled())
            self._timeline.after(_FORGETTING, self._forget)

    def close(self) -> None:
        """End all readers."""
        self._holding.close()
        for step in self._steps:
            step.abandon()

    def _moment(self) -> float:
        return self._chances.between(Number.LENGTH, 0.0, _LONGEST_STOP)

    def _read(self, partition: int) -> None:
        reader = self._readers[partition] = _Reader(BrokerClient(self.broker))

        def failed(error: BaseException) -> None:
            if not isinstance(error, Crash):
                raise error
            self._trace("dies", self.name, partition, str(error))
            if self._readers[partition] is reader:
                pause = self._chances.between(Number.LENGTH, 0.1, 5.0)
                self._timeline.after(pause, read_again)

        async def read_again() -> None:
            if self._readers[partition] is reader:
                self._read(partition)

        async def receive(
            envelopes: Sequence[Envelope], settled: EndedSagas | None
        ) -> Sequence[Reply]:
            return await self._handle(envelopes, settled, read_at=reader.client.read_at)

        real = PartitionReader(
            reader.client,
            self.name,
            partition,
            receive,
            self._keys,
            self._holding,
            may_read=lambda: reader.may_read,
            waits=_WAITS,
        )
        step = Step(
            self._timeline, real.run(Gate()), _ended, failed, lambda: reader.stands_still_until
        )
        self._steps.append(step)
        self._timeline.after(0.0, step.go_on)

    async def _handle(
        self,
        envelopes: Sequence[Envelope],
        settled: EndedSagas | None = None,
        *,
        read_at: int = 0,
    ) -> Sequence[Reply]:
        """Let the inbox answer these. Those that a reader took were taken at the moment
        `read_at`."""
        chances = self._chances
        await Wait(chances.between(Number.LATENCY, *self._latency))
        if self._receiver.away_until > self._timeline.now:
            raise TransactionLost("the database is away", next_step="wait")
        if chances.fault(Fault.READER_CRASH):
            raise Crash("before the inbox")
        self._witness.read(envelopes, read_at)
        if isinstance(self._receiver, Service):
            self._receiver.note(envelopes, settled)
        replies = await self._receiver.receive(envelopes, self._tell)
        if replies is None:
            raise Crash("in the inbox")
        for envelope, reply in zip(envelopes, replies, strict=True):
            if is_told_afterwards(envelope, reply):
                self._tell(envelope, reply)
            self._witness.answered(envelope, reply)
        if chances.fault(Fault.READER_CRASH):
            raise Crash("after the inbox")
        await Wait(chances.between(Number.LATENCY, *self._latency))
        return replies

    def _tell(self, envelope: Envelope, reply: Reply) -> None:
        self._witness.told(reply)
        assert envelope.correlation is not None, "it is a command of a run"
        self._post.send(self.name, envelope.correlation, envelope.id, reply)


class _Reader:
    """What is known of one reader: whether its lease allows it to read, and until when it stands
    still."""

    def __init__(self, client: BrokerClient) -> None:
        self.client = client
        self.may_read = True
        self.stands_still_until = 0.0

    def stand_still(self, until: float) -> None:
        """Let it stand still without knowing it."""
        self.stands_still_until = until

    async def lose(self) -> None:
        """Let it know that the partition is another one's."""
        self.may_read = False


def _ended(_: None) -> None:
    """A reader ends where another one has its partition."""


async def _rest(_: asyncio.Event, seconds: float) -> None:
    await Wait(seconds)


async def _unless(_: asyncio.Event, asked: Awaitable[T]) -> T | None:
    return await asked


_WAITS = Waits(_rest, _unless)
