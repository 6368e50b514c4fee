"""The broker NATS with JetStream: a queue is a stream of work with a subject for each partition.

JetStream answers when it has written a message to the file of the stream, and with several replicas
when most of them have. On the disk itself it is then only where the server has `sync_interval:
always`, which no client can see.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import ClassVar

from nats.aio.msg import Msg

from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerFeatures,
    BrokerRefused,
    Packet,
    PacketRefused,
)
from outbox.transports.brokers.jetstream.connection import OWN, Connection, is_unheard
from outbox.transports.brokers.jetstream.reading import NatsReading
from outbox.transports.brokers.jetstream.streams import (
    Names,
    OneSubject,
    Stream,
    stream_of,
    waiting_in,
)

DURABLE = (
    "written to the file of a stream, by most of its replicas; on the disk only where the server "
    "has sync_interval: always"
)
_HEADERS = 4096
"""Bytes that are kept free for headers; what a packet really has is counted when it is sent."""
_FRAME = 200
"""Bytes of the lines around headers, and of the three of a batch."""
_TOO_LARGE = 10054
_BATCH, _NUMBER, _COMMIT = f"{OWN}Batch-Id", f"{OWN}Batch-Sequence", f"{OWN}Batch-Commit"
_NO_BATCH = "atomic publish"
_UNHEARD = "no stream of JetStream listens to the subject"
AS_ONE = 20
"""From so many packets on they are published as one, where the stream allows it. That costs the
server some files, and a single fsync where it makes one for each message otherwise."""
MOST_AS_ONE = 1000
"""The server takes no more."""


class NatsBroker:
    """The broker at that address. Its options are `ca`, `cert` and `key`, files for TLS, and
    `replicas`, from 1 to 5, for streams that it makes. Raises InvalidService."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"ca", "cert", "key", "replicas"})

    def __init__(self, address: BrokerAddress) -> None:
        if address.options.get("replicas", "1") not in {"1", "2", "3", "4", "5"}:
            raise InvalidService(
                f"replicas={address.options['replicas'][:20]!r} in the address of {address}",
                next_step="choose 1 for a single server, or 3 in a cluster of three or more",
            )
        if address.path:
            raise InvalidService(
                f"{address} has a path, and no server of NATS has one",
                next_step="write it as nats://host:4222; options are behind a ?",
            )
        self._address = address
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._streams: dict[str, Stream] = {}
        self._is_closed = False

    @property
    def partitions(self) -> int:
        """As the address says."""
        return self._address.partitions

    @property
    def features(self) -> BrokerFeatures:
        """What it keeps; `largest` is known from the first connection on."""
        if self._connection is None:
            return BrokerFeatures(durable=DURABLE)
        largest = self._connection.largest
        return BrokerFeatures(durable=DURABLE, largest=largest - min(_HEADERS, largest // 2))

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """Put the packets into the stream. Many are published as one: JetStream keeps all or none.
        Of few, a packet is sent when the one of its key before it is stored. So nothing that
        follows a refused packet of its key is taken."""
        connection, stream = await self._ready(queue)
        for packet in packets:
            _require_size(packet, connection, stream)
        as_one = stream.takes_as_one and len(packets) >= AS_ONE
        is_begun = False
        try:
            for part in _parts(packets):
                if as_one and await _store_as_one(connection, stream, part):
                    is_begun = True
                    continue
                for run in _runs(part):
                    await _store(connection, stream, run)
                    is_begun = True
        except (BrokerAway, BrokerRefused) as error:
            self._streams.pop(queue, None)
            if is_begun:
                raise BrokerAway(str(error), sent=True) from error
            raise

    async def publish_at(self, subject: str, packets: Sequence[Packet]) -> None:
        """Publish them to a subject of others, which a stream of theirs has to take; of a key one
        after the other. Raises BrokerRefused where none does."""
        connection = await self._connected()
        stream = Stream(OneSubject("", subject, 1), None, takes_as_one=False)
        for packet in packets:
            _require_size(packet, connection, stream)
        is_begun = False
        try:
            for run in _runs(packets):
                await _store(connection, stream, run)
                is_begun = True
        except BrokerAway as away:
            if away.reason == _UNHEARD and not is_begun:
                raise BrokerRefused(
                    f"no stream of JetStream takes the subject {subject}",
                    next_step=f"ask its owner to add it to a stream: nats stream add --subjects="
                    f"{subject}; or correct the name of the topic",
                ) from away
            raise BrokerAway(away.reason, sent=away.sent or is_begun) from away

    async def open(self, queue: str, partition: int) -> NatsReading:
        """Read that partition, in the place of the reader before."""
        connection, stream = await self._ready(queue)
        try:
            return await NatsReading.take_over(connection, stream, partition)
        except Exception:
            self._streams.pop(queue, None)
            raise

    async def waiting(self, queue: str) -> int:
        """The messages in the stream; none where there is no stream yet."""
        connection = await self._connected()
        return await waiting_in(connection, Names(self._address.prefix, queue, self.partitions))

    async def aclose(self) -> None:
        """Close the connection."""
        self._is_closed = True
        if self._connection is not None:
            await self._connection.close()

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._is_closed:
                raise BrokerAway("the broker is closed", sent=False)
            if self._connection is None or not self._connection.is_open:
                if self._connection is not None:
                    await self._connection.close()
                # A server that came back may have other streams.
                self._streams.clear()
                self._connection = await Connection.to(self._address)
                if self._is_closed:
                    await self._connection.close()
                    raise BrokerAway("the broker is closed", sent=False)
            return self._connection

    async def _ready(self, queue: str) -> tuple[Connection, Stream]:
        connection = await self._connected()
        stream = self._streams.get(queue)
        if stream is None:
            try:
                stream = await stream_of(connection, self._address, queue)
            except BrokerAway as away:
                raise BrokerAway(away.reason, sent=False) from away
            self._streams[queue] = stream
        return connection, stream


async def _store(connection: Connection, stream: Stream, packets: Sequence[Packet]) -> None:
    """Write all, then wait for all answers. Raises the first trouble."""
    answers: list[asyncio.Future[Msg]] = []
    try:
        for packet in packets:
            subject = stream.names.subject(packet.partition)
            try:
                answers.append(await connection.ask(subject, packet.body, packet.headers))
            except BrokerAway as away:
                raise BrokerAway(away.reason, sent=bool(answers)) from away
        for answer in answers:
            await asyncio.wait({answer})
    finally:
        for answer in answers:
            answer.cancel()
    troubles = [it for it in (_trouble(each, stream) for each in answers) if it is not None]
    if not troubles:
        return
    first = troubles[0]
    is_any_stored = len(troubles) < len(answers)
    is_any_sent = any(isinstance(it, BrokerAway) and it.sent for it in troubles)
    if not isinstance(first, PacketRefused) and (is_any_stored or is_any_sent):
        raise BrokerAway(str(first), sent=True)
    raise first


async def _store_as_one(connection: Connection, stream: Stream, packets: Sequence[Packet]) -> bool:
    """Write all as one batch; the answer to the last says what became of all. False where the
    server takes no batch now: it has too many of them in hand, or may have none any more."""
    name = secrets.token_hex(12)
    for number, packet in enumerate(packets[:-1], 1):
        subject = stream.names.subject(packet.partition)
        headers = {**packet.headers, _BATCH: name, _NUMBER: str(number)}
        await connection.tell(subject, packet.body, headers=headers)
    last = packets[-1]
    headers = {**last.headers, _BATCH: name, _NUMBER: str(len(packets)), _COMMIT: "1"}
    answer = await connection.ask(stream.names.subject(last.partition), last.body, headers)
    try:
        await asyncio.wait({answer})
    finally:
        answer.cancel()
    trouble = _trouble(answer, stream)
    if isinstance(trouble, BrokerAway) and _NO_BATCH in trouble.reason:
        return False
    if trouble is not None:
        raise trouble
    return True


def _parts(packets: Sequence[Packet]) -> Sequence[Sequence[Packet]]:
    return [packets[it : it + MOST_AS_ONE] for it in range(0, len(packets), MOST_AS_ONE)]


def _runs(packets: Sequence[Packet]) -> Sequence[Sequence[Packet]]:
    """The packets in their order, in runs of which each has a key but once: were one refused, a
    later one of its key must not be taken."""
    runs: list[list[Packet]] = []
    keys: set[tuple[int, str]] = set()
    for packet in packets:
        key = (packet.partition, packet.key)
        if not runs or key in keys:
            runs.append([])
            keys.clear()
        keys.add(key)
        runs[-1].append(packet)
    return runs


def _require_size(packet: Packet, connection: Connection, stream: Stream) -> None:
    # Each header is a line "name: value".
    size = _FRAME + sum(len(name) + len(it) + 4 for name, it in packet.headers.items())
    size += len(packet.body)
    largest = min(connection.largest, stream.largest or connection.largest)
    if size > largest:
        raise PacketRefused(
            f"a message of {size} bytes with its headers is larger than the {largest} that "
            f"{'the server' if largest == connection.largest else stream.names.stream} takes"
        )


def _trouble(answer: asyncio.Future[Msg], stream: Stream) -> Exception | None:
    """Why that message is not stored in the stream, or may not be."""
    error = answer.exception()
    if isinstance(error, Exception):
        return error
    message = answer.result()
    if is_unheard(message):
        return BrokerAway(_UNHEARD, sent=False)
    try:
        told: Mapping[str, object] = json.loads(message.data)
        refusal = told.get("error")
    except (ValueError, AttributeError):
        return BrokerAway("another client than JetStream answered", sent=True)
    if isinstance(refusal, Mapping):
        return _refusal(refusal)
    taker = told.get("stream")
    if not taker or taker != (stream.names.stream or taker):
        return BrokerAway(f"another stream took a message: {taker}", sent=True)
    return None


def _refusal(told: Mapping[str, object]) -> Exception:
    reason = str(told.get("description", "no reason was given"))
    if told.get("err_code") == _TOO_LARGE:
        return PacketRefused(f"JetStream refuses a message: {reason}")
    # Whatever else went wrong, the message may stand in the file.
    is_limit = any(it in reason.lower() for it in ("maximum", "insufficient", _NO_BATCH))
    return BrokerAway(f"JetStream did not store a message: {reason}", sent=not is_limit)
