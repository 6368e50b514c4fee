"""The followers of topics: consumers of one service, each of a topic of others."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import NoReturn

from outbox.clock import Clock
from outbox.errors import InvalidService
from outbox.replacing import replace
from outbox.transports.brokers.broker import (
    BrokerFeatures,
    BrokerRefused,
    Packet,
    Reading,
    Taken,
)
from outbox.transports.brokers.held.holding import Holding, LaneKey, ToHold
from outbox.transports.brokers.held.rows import as_read
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.foreign import AT
from outbox.transports.brokers.topics.mapping import Map, Mapping, TheirId, source_of
from outbox.transports.brokers.topics.port import Start, TopicClient
from outbox.transports.brokers.topics.topic import Topic
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

_GROUP = re.compile(r"[A-Za-z0-9_-]{1,60}")


class FollowedTopic:
    """A topic as a consumer reads a queue: it implements `Broker`, without its sending."""

    features = BrokerFeatures(durable="by its owner")
    partitions = 1
    """One process reads the whole topic, however many parts its owner gives it."""

    def __init__(self, client: TopicClient, topic: Topic, group: str, start: Start) -> None:
        self._client = client
        self._topic = topic
        self._group = group
        self._start = start

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """Nothing is sent to a topic that is followed."""
        raise BrokerRefused(f"{self._topic} is only followed", next_step="send by a peer")

    async def open(self, queue: str, partition: int) -> Reading:
        """Read it in the place of the group's reader before."""
        return await self._client.follow(self._topic, self._group, self._start)

    async def waiting(self, queue: str) -> int:
        """What the group has not done."""
        return await self._client.behind(self._topic, self._group)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def __str__(self) -> str:
        return f"{self._topic}, for the group {self._group}"


@dataclass(frozen=True)
class Followed:
    """What a service was told of a topic that it follows. `queue` is its name among queues."""

    topic: Topic
    group: str
    start: Start
    mapping: Mapping

    @classmethod
    def of(
        cls,
        topic: Topic | str,
        *,
        map: Map,
        id: TheirId,
        group: str | None,
        start: Start | str,
        service: str,
        clock: Clock,
    ) -> Followed:
        """Raises InvalidService where one of them cannot be, and ExtraMissing."""
        found: object = Topic.parse(topic) if isinstance(topic, str) else topic
        if not isinstance(found, Topic):
            _refuse(
                f"what is to be followed is a {type(found).__name__}, and no topic",
                "give an outbox.Topic or its text, such as topic+nats://host:4222/SUBJECT",
            )
        found.to_follow()
        client_of(found)
        given: object = map
        if not callable(given) or iscoroutinefunction(given):
            _refuse(
                f"map={map!r:.100} of {found} is no {'plain ' if callable(given) else ''}function",
                "give a function without async, which makes an event of an outbox.ForeignMessage; "
                "what has to wait belongs into the handler of that event",
            )
        is_header = isinstance(id, str) and id
        is_function = callable(id) and not iscoroutinefunction(id)
        if id is not None and not is_header and not is_function:
            _refuse(
                f"id={id!r:.100} of {found} is neither the name of a header nor a function that "
                "finds the id",
                "leave it out where the messages are CloudEvents; a function is one without async",
            )
        if start not in tuple(Start):
            _refuse(f"start={start!r} is neither first nor new", "choose one of the two")
        if not _GROUP.fullmatch(group or service):
            _refuse(
                f"{group or service!r} is no name of a group",
                "use 1 to 60 letters, digits, - and _",
            )
        if found.address.kind == "rabbitmq" and (group is not None or start != Start.FIRST):
            _refuse(
                f"{'start' if group is None else 'group'}= has no effect on a queue of RabbitMQ, "
                f"as {found} is: it has one position for all, at its first message",
                "leave it out; declare a queue for each group, which gets what comes from then on",
            )
        return cls(found, group or service, Start(start), Mapping(found.name, map, id, clock.now))

    @property
    def queue(self) -> str:
        """Its name among the queues of the service; no service can have it."""
        return source_of(self.topic.name)

    @property
    def where(self) -> str:
        """Where it is, for people."""
        return f"{self.topic.address}, topic {self.topic.name}"

    def broker(self) -> FollowedTopic:
        """What a consumer reads, with connections of its own."""
        return FollowedTopic(client_of(self.topic), self.topic, self.group, self.start)

    def unpack(self, taken: Taken) -> tuple[Envelope, EndedSagas | None] | None:
        """The event that the packet becomes; None where it is not for this service. Raises
        MalformedEnvelope."""
        envelope = self.mapping.read(taken.packet)
        return None if envelope is None else (envelope, None)


@dataclass(frozen=True)
class ForeignHolding(Holding):
    """The held table for packets of others. What was mapped is held as the event that it became;
    what was not, as it came."""

    table: Holding

    @property
    def is_strict(self) -> bool:
        return self.table.is_strict

    async def held(self, keys: Collection[LaneKey]) -> set[LaneKey]:
        return await self.table.held(keys)

    async def hold(self, items: Sequence[ToHold]) -> None:
        await self.table.hold([_to_hold(it) for it in items])


def _to_hold(item: ToHold) -> ToHold:
    if item.envelope is not None:
        return replace(item, packet=as_read(item.packet, item.envelope))
    # Two messages may have the same body, and their ids in headers.
    told = {name: it for name, it in item.packet.headers.items() if name != AT}
    mark = json.dumps([item.packet.key, sorted(told.items())]).encode()
    return replace(item, mark=mark)


def _refuse(problem: str, next_step: str) -> NoReturn:
    raise InvalidService(problem, next_step=next_step)
