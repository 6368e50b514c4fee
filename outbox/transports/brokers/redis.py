"""Redis as a broker: a stream for each partition, read by one consumer group.

A packet is an entry of the stream `{prefix}:{queue}:{partition}`. The group has the queue's name.
Each opening of a partition raises the number in `...:reader`; what reads, and what says that
packets are done, are scripts that compare it first, so that a reader that was taken over does
neither. Packets that are done are trimmed away, once every group of the stream has acknowledged
them.

Redis 7.0 or newer, as one primary. A cluster is refused: a batch goes to several streams at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import RedisError

from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import (
    UNREADABLE,
    BrokerAway,
    BrokerFeatures,
    BrokerRefused,
    Packet,
    reading_answers,
    unreadable,
)
from outbox.transports.brokers.redis_streams.link import ANSWER_WITHIN, Command, Link
from outbox.transports.brokers.redis_streams.reading import BODY, HEADER, KEY, RedisReading
from outbox.transports.brokers.redis_streams.scripts import SHAPE, WAITING
from outbox.transports.brokers.redis_streams.troubles import is_cluster, is_replica, trouble

_DURABLE: Mapping[str, str] = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
_CLUSTER = "cluster-enabled"
_PRIMARY = "replicaof"


class RedisBroker:
    """A client of the Redis at that address. Options of the address:

    - `durable=assumed`: what a server that does not let its configuration be read is taken for.
      One that says that it is not durable is refused all the same.
    - `ca`, `cert`, `key`: files of certificates, with `rediss`.

    Raises InvalidService where the address has what Redis has not.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"ca", "cert", "durable", "key"})

    def __init__(self, address: BrokerAddress) -> None:
        if len(address.servers) != 1 or not (address.path or "0").isdecimal():
            raise InvalidService(
                f"{address} is not one server with the number of a database",
                next_step="write it as redis://host:6379/0; where a primary moves, let the name "
                "follow it, since Sentinel and clusters are not asked",
            )
        if address.options.get("durable", "assumed") != "assumed":
            raise InvalidService(
                f"the option durable of {address} is not `assumed`",
                next_step="leave it out, so that the server is asked whether it is durable",
            )
        if address.tls:
            address.trusting()
        self.partitions = address.partitions
        self.features = BrokerFeatures(durable="when its append-only file is on the disk")
        self._address = address
        self._name = str(address)
        self._closed = False
        self._idle: list[Link] = []
        self._links: set[Link] = set()

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """All of them in one transaction: either all are there, or none."""
        if not packets:
            return
        commands: list[Command] = [("MULTI",)]
        for packet in packets:
            fields = [BODY, packet.body, KEY, packet.key.encode()]
            for name, value in packet.headers.items():
                fields += [HEADER + name.encode(), value.encode()]
            commands.append(("XADD", self._stream(queue, packet.partition), "*", *fields))
        async with self._link() as link:
            await self._require_shape(link, queue)
            await self._added(link, commands)

    async def _added(self, link: Link, commands: Sequence[Command]) -> list[Any]:
        """The answers to the commands of a transaction, of which the first is MULTI."""
        *taken, added = await link.ask(*commands, ("EXEC",), with_packets=True)
        # Where one is refused before EXEC, none of them is executed.
        for answer in taken:
            if isinstance(answer, Exception):
                raise trouble(answer, self._name, sent=False) from answer
        if isinstance(added, Exception):
            raise trouble(added, self._name, sent=False) from added
        if not isinstance(added, list) or len(added) != len(commands) - 1:
            raise BrokerAway(f"{self._name} does not say that it has all packets", sent=True)
        for answer in added:
            if isinstance(answer, Exception):
                raise BrokerAway(f"{self._name} took a part only: {answer}", sent=True)
        return added

    async def open(self, queue: str, partition: int) -> RedisReading:
        """Read that partition, on a connection of its own."""
        link = await self._connect()
        try:
            await self._require_shape(link, queue)
            stream = self._stream(queue, partition)
            reading = RedisReading(link, queue, stream, partition, self._links)
            await reading.take_over()
        except BaseException:
            await self._forget(link)
            raise
        return reading

    async def waiting(self, queue: str) -> int:
        """Those of all partitions. At a server that cannot tell how far the group is behind, what
        only other groups still need is counted too."""
        streams = [self._stream(queue, it) for it in range(self.partitions)]
        async with self._link() as link:
            await self._require_shape(link, queue)
            return await link.run_for_number(WAITING, streams, queue)

    async def aclose(self) -> None:
        """Close all connections, those of readings too."""
        self._closed = True
        self._idle.clear()
        for link in [*self._links]:
            await self._forget(link)

    def _stream(self, queue: str, partition: int) -> str:
        return f"{self._address.prefix}:{queue}:{partition}"

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[Link]:
        link = self._idle.pop() if self._idle else await self._connect()
        try:
            yield link
        except BaseException:
            link.is_usable = False  # where a name leads elsewhere by now, a new one follows
            raise
        finally:
            if link.is_usable and not self._closed:
                self._idle.append(link)
            else:
                # What broke one has most likely broken those that were idle.
                idle, self._idle = self._idle, []
                for each in (link, *idle):
                    await self._forget(each)

    async def _forget(self, link: Link) -> None:
        self._links.discard(link)
        await link.aclose()

    async def _connect(self) -> Link:
        if self._closed:
            raise BrokerAway("the broker is closed", sent=False)
        connection = self._connection()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await connection.connect()  # type: ignore[no-untyped-call]  # it has no types
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise BrokerAway(f"{self._name} does not answer", sent=False) from None
        except (RedisError, OSError) as error:
            raise trouble(error, self._name, sent=False) from error
        except UNREADABLE as error:
            await connection.disconnect(nowait=True)
            raise unreadable(self._name, error, sent=False) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        link = Link(connection, self._name)
        self._links.add(link)
        try:
            with reading_answers(self._name, sent=False):
                await self._require_durable(link)
            if self._closed:
                raise BrokerAway("the broker is closed", sent=False)
        except BaseException:
            await self._forget(link)
            raise
        return link

    def _connection(self) -> Connection:
        (host, port), *_ = self._address.servers
        options: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": int(self._address.path or 0),
            "username": self._address.user,
            "password": self._address.password,
            "protocol": 2,
            # The deadlines are those of `Link`; a blocking read outlasts any of these.
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }
        if not self._address.tls:
            return Connection(**options)
        files = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
        given = self._address.options
        options |= {files[name]: given[name] for name in files if name in given}
        return SSLConnection(**options)

    async def _require_durable(self, link: Link) -> None:
        began, ended = await link.ask(("MULTI",), ("EXEC",))
        refused = next((it for it in (began, ended) if isinstance(it, Exception)), None)
        if refused is not None:
            # Without a transaction each packet would stay for itself, and the batch come again.
            raise BrokerRefused(
                f"{self._name} lets this user make no transactions: {refused}",
                next_step="grant what docs/operate/redis.md lists, +multi and +exec among it",
            ) from refused
        names = [*_DURABLE, _CLUSTER, _PRIMARY]
        answers = await link.ask(*[("CONFIG", "GET", name) for name in names])
        wrong: dict[str, str] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Exception):
                if "durable" in self._address.options:
                    return
                raise BrokerRefused(
                    f"{self._name} does not tell whether it is durable: {answer}",
                    next_step="grant the user +config|get; or, if you know that it loses nothing "
                    "that it has confirmed, add durable=assumed to its address",
                ) from answer
            said = answer[1].decode() if answer else ""
            if name == _CLUSTER and said == "yes":
                raise is_cluster(self._name)
            if name == _PRIMARY and said:
                raise is_replica(self._name)
            if said != _DURABLE.get(name, said):
                wrong[name] = said or "not at all"
        if wrong:
            has = ", ".join(f"{name} {said}" for name, said in wrong.items())
            to = ", ".join(f"{name} to {_DURABLE[name]}" for name in wrong)
            raise BrokerRefused(
                f"{self._name} has {has}, with which it may lose what it has confirmed",
                next_step=f"set {to} in its configuration",
            )

    async def _require_shape(self, link: Link, queue: str) -> None:
        """The number of partitions stands beside the queue, where its first client has put it."""
        if queue in link.known_queues:
            return
        key = f"{self._address.prefix}:{queue}:partitions"
        number = await link.run_for_number(SHAPE, [key], self.partitions)
        if number != self.partitions:
            raise BrokerRefused(
                f"the queue {queue} of {self._name} has {number} partitions, and the address says "
                f"{self.partitions}",
                next_step=f"write partitions={number} into the address, for all who send to this "
                "queue and read it; another number needs a new prefix",
            )
        link.known_queues.add(queue)
