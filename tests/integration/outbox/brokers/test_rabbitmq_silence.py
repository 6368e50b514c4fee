"""A RabbitMQ that is well, and never answers one request; and one that is none. Both are servers
that a test writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import pamqp.frame
import pytest
from pamqp.base import Frame
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue

from outbox.transports.brokers import rabbitmq
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, Reading
from outbox.transports.brokers.topics.port import Start
from outbox.transports.brokers.topics.rabbitmq import RabbitTopics
from outbox.transports.brokers.topics.topic import Topic
from tests.support.brokers.traffic import PATIENT, QUEUE, packets
from tests.support.processes.waiting import until

ABLE = {"version": "4.0.0", "capabilities": {"publisher_confirms": True}}
ANSWERS: Mapping[str, Callable[[], Frame]] = {
    "Connection.StartOk": lambda: Connection.Tune(100, 131072, 0),
    "Connection.Open": Connection.OpenOk,
    "Connection.Close": Connection.CloseOk,
    "Channel.Open": Channel.OpenOk,
    "Channel.Close": Channel.CloseOk,
    "Confirm.Select": Confirm.SelectOk,
    "Exchange.Declare": Exchange.DeclareOk,
    "Queue.Declare": lambda: Queue.DeclareOk("", 0, 0),
    "Queue.Bind": Queue.BindOk,
    "Basic.Qos": Basic.QosOk,
    "Basic.Consume": lambda: Basic.ConsumeOk("reader"),
}


class Server:
    """It answers all but the request of that number, from 1. `asked` counts them. One that `hangs`
    answers nothing more on the channel of that request, whose consumer stays. It hangs where the
    queue `never_made` is declared, too."""

    def __init__(self, silent_at: int = 0, *, hangs: bool = False) -> None:
        self._silent_at = silent_at
        self._hangs = hangs
        self._consumers: set[tuple[object, int]] = set()
        self.asked = 0
        self.connections = 0
        self.open: set[tuple[object, int]] = set()
        """The connections, as their channel 0, and the channels."""
        self.most_consumers = 0
        self.never_made = ""
        self.is_hanging = asyncio.Event()
        self.able: dict[str, object] = dict(ABLE)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        hanging: set[int] = set()
        published: Counter[int] = Counter()
        self.connections += 1
        self.open.add((writer, 0))
        with suppress(asyncio.IncompleteReadError, OSError):
            await reader.readexactly(8)
            start = Connection.Start(server_properties=self.able)  # type: ignore[arg-type]  # a field table, whose type the library keeps for itself
            writer.write(pamqp.frame.marshal(start, 0))
            while True:
                head = await reader.readexactly(7)
                rest = await reader.readexactly(int.from_bytes(head[3:], "big") + 1)
                _, channel, frame = pamqp.frame.unmarshal(head + rest)
                if frame.name == "Basic.Publish":
                    published[channel] += 1
                    writer.write(pamqp.frame.marshal(Basic.Ack(published[channel]), channel))
                if isinstance(frame, Queue.Declare) and frame.queue == self.never_made:
                    hanging.add(channel)
                    self.is_hanging.set()
                if frame.name not in ANSWERS or channel in hanging:
                    continue
                self._note(frame.name, (writer, channel))
                is_request = not frame.name.startswith("Connection.") and "Close" not in frame.name
                self.asked += is_request
                if not (is_request and self.asked == self._silent_at):
                    writer.write(pamqp.frame.marshal(ANSWERS[frame.name](), channel))
                elif self._hangs:
                    hanging.add(channel)
        self._consumers = {it for it in self._consumers if it[0] is not writer}
        self.open = {it for it in self.open if it[0] is not writer}
        writer.close()

    def _note(self, name: str, at: tuple[object, int]) -> None:
        if name == "Basic.Consume":
            self._consumers.add(at)
        elif name == "Channel.Open":
            self.open.add(at)
        elif name == "Channel.Close":
            self._consumers.discard(at)
            self.open.discard(at)
        self.most_consumers = max(self.most_consumers, len(self._consumers))


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[RabbitTopics]:
    """A client of that server."""
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    broker = RabbitTopics(BrokerAddress.parse(f"amqp://guest:guest@127.0.0.1:{port}/?partitions=1"))
    try:
        yield broker
    finally:
        await broker.aclose()
        listening.close()


async def opened(broker: RabbitTopics) -> Reading:
    return await broker.open(QUEUE, 0)


async def followed(broker: RabbitTopics) -> Reading:
    topic = Topic.parse("topic+amqp://guest:guest@127.0.0.1:1/theirs")
    return await broker.follow(topic, "articles", Start.FIRST)


@pytest.mark.parametrize("begin", [opened, followed])
async def test_a_request_that_is_never_answered_ends_the_opening_of_a_reading(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[[RabbitTopics], Awaitable[Reading]]
) -> None:
    # The server's heart does not beat, and the client does not mind: only the limit is left.
    monkeypatch.setattr("outbox.transports.brokers.amqp.links.HEARTBEAT", 0)
    good = Server()
    async with client(good) as broker:
        await (await begin(broker)).aclose()
    assert good.asked >= 4
    for number in range(1, good.asked + 1):
        before = asyncio.all_tasks()
        async with client(Server(number)) as broker, asyncio.timeout(PATIENT):
            with monkeypatch.context() as patch:
                patch.setattr(rabbitmq, "ANSWER_WITHIN", 0.2)
                with pytest.raises(BrokerAway, match=r"no answer within 0\.2 s") as away:
                    await begin(broker)
            assert not away.value.sent
            await (await begin(broker)).aclose()
        left = {it for it in asyncio.all_tasks() - before if "aiormq" in repr(it)}
        assert not left, number


@pytest.mark.parametrize("begin", [opened, followed])
async def test_a_consumer_of_which_nothing_is_known_is_gone_before_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[[RabbitTopics], Awaitable[Reading]]
) -> None:
    """It would be the active one, and be given packets for as long as its connection is open."""
    monkeypatch.setattr("outbox.transports.brokers.amqp.links._CLOSE_CHANNEL_WITHIN", 0.2)
    good = Server()
    async with client(good) as broker:
        await (await begin(broker)).aclose()
    server = Server(good.asked, hangs=True)
    async with client(server) as broker, asyncio.timeout(PATIENT):
        with monkeypatch.context() as patch:
            patch.setattr(rabbitmq, "ANSWER_WITHIN", 0.2)
            with pytest.raises(BrokerAway):
                await begin(broker)
        assert server.most_consumers == 1
        await (await begin(broker)).aclose()
    assert server.most_consumers == 1


async def test_a_sender_that_is_cancelled_while_it_declares_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no consumer that must be gone first."""
    monkeypatch.setattr("outbox.transports.brokers.amqp.links._CLOSE_CHANNEL_WITHIN", 9 * PATIENT)
    monkeypatch.setattr("outbox.transports.brokers.amqp.links.HEARTBEAT", 0)
    server = Server(2, hangs=True)
    async with client(server) as broker:
        publishing = asyncio.create_task(broker.publish(QUEUE, packets(1)))
        await until(lambda: server.asked == 2)
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=PATIENT)
        assert publishing.cancelled()


async def test_a_queue_that_is_never_made_keeps_no_sender_from_another_one() -> None:
    server = Server()
    async with client(server) as broker, asyncio.timeout(PATIENT):
        await broker.publish(QUEUE, packets(1))
        server.never_made = "sagabox.slow.0"
        slow = asyncio.create_task(broker.publish("slow", packets(1)))
        await server.is_hanging.wait()
        await broker.publish(QUEUE, packets(1))
        await broker.publish("new", packets(1))
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await broker.publish(QUEUE, packets(1))
    assert server.connections == 1


async def test_figures_that_never_come_do_not_end_what_is_read() -> None:
    server = Server()
    async with client(server) as broker, asyncio.timeout(PATIENT):
        reading = await broker.open(QUEUE, 0)
        server.never_made = f"sagabox.{QUEUE}.0"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await broker.waiting(QUEUE)
        assert await reading.next(1, 0.1) == ()
    assert server.connections == 1


async def counted(broker: RabbitTopics) -> None:
    await broker.waiting(QUEUE)


@pytest.mark.parametrize("begin", [opened, followed, counted])
async def test_what_is_cancelled_at_any_moment_leaves_no_channel_and_no_connection(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[[RabbitTopics], Awaitable[Reading | None]]
) -> None:
    # Else what is left would end by itself: this server's heart does not beat.
    monkeypatch.setattr("outbox.transports.brokers.amqp.links.HEARTBEAT", 0)
    moments = 0
    while await is_cancelled(begin, moments):
        moments += 1
    assert moments > 50


async def is_cancelled(
    begin: Callable[[RabbitTopics], Awaitable[Reading | None]], moments: int
) -> bool:
    """Whether it is still under way after so many moments."""
    server = Server()

    async def begun() -> None:
        reading = await begin(broker)
        if reading is not None:
            await reading.aclose()

    async with client(server) as broker:
        task = asyncio.create_task(begun())
        for _ in range(moments):
            await asyncio.sleep(0)  # the next moment
        is_under_way = task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: len(server.open) <= 1)
    await until(lambda: not server.open)
    return is_under_way


@pytest.mark.parametrize("told", [None, "", {}, {"publisher_confirms": False}])
async def test_a_server_that_does_not_confirm_is_refused(told: object) -> None:
    server = Server()
    if told is None:
        del server.able["capabilities"]
    else:
        server.able["capabilities"] = told
    async with client(server) as broker:
        for _ in range(2):
            with pytest.raises(BrokerRefused, match="does not confirm") as refused:
                await broker.publish(QUEUE, packets(1))
            assert "3.10" in refused.value.next_step
