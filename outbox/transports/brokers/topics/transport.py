"""The transport of events to a topic of others: plain CloudEvents, unsigned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outbox.errors import MalformedEnvelope
from outbox.replacing import replace
from outbox.replies import Outcome, Reply
from outbox.safe_text import fit
from outbox.transports.base import (
    DEFAULT_TIMEOUT,
    Accepted,
    Answered,
    Delivery,
    Unacceptable,
    Unreachable,
)
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, PacketRefused
from outbox.transports.brokers.topics.port import EventPacket, TakenInPart, TopicClient
from outbox.transports.brokers.topics.topic import Topic
from outbox.transports.webhooks.requests import check, is_command, request_of
from outbox.wire import attributes
from outbox.wire.envelope import Envelope

_DONE = Reply(Outcome.DONE)
_LEFT = Reply(Outcome.NOT_ATTEMPTED)
_NO_EVENT = Reply(
    Outcome.REJECTED,
    code="no-event",
    reason="it is a command, and a topic of others takes events: no reader there would answer it",
)


class TopicTransport:
    """The transport to that topic. One delivery takes at most `timeout` seconds, connecting
    included."""

    def __init__(
        self, client: TopicClient, topic: Topic, *, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        self._client = client
        self._topic = topic
        self._timeout = timeout
        self._closed = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Give the events to the broker, and wait until it has all of them."""
        if self._closed:
            return Unreachable("the transport is closed", sent=False)
        events = [each for each in envelopes if not is_command(each)]
        try:
            packets = [written(each, self._topic.mode) for each in events]
        except (MalformedEnvelope, ValueError, TypeError) as error:
            return Unacceptable(fit(f"the event cannot be written: {error}"))
        replies = await self._publish(packets) if packets else []
        if not isinstance(replies, list):
            return replies
        if len(events) == len(envelopes) and all(it == _DONE for it in replies):
            return Accepted()
        left = iter(replies)
        return Answered([_NO_EVENT if is_command(each) else next(left) for each in envelopes])

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
        self._closed = True
        await self._client.aclose()

    async def _publish(
        self, packets: Sequence[EventPacket]
    ) -> list[Reply] | Unreachable | Unacceptable:
        try:
            async with asyncio.timeout(self._timeout):
                await self._client.publish_to(self._topic, packets)
        except TimeoutError:
            return Unreachable(f"{self._topic}: no answer within {self._timeout:g} s", sent=True)
        except BrokerAway as away:
            return Unreachable(fit(f"{self._topic}: {away.reason}"), sent=away.sent)
        except PacketRefused as refused:
            return Unacceptable(fit(f"{self._topic}: {refused}"))
        except BrokerRefused as refused:
            return Unreachable(fit(str(refused)), sent=False)
        except TakenInPart as part:
            return _replies(packets, part)
        return [_DONE] * len(packets)


def _replies(packets: Sequence[EventPacket], part: TakenInPart) -> list[Reply]:
    """What is left waits without a failure of its own, and the rest of its key behind it."""
    waits = Reply(Outcome.ONGOING, code="no-way", reason=fit(part.reason))
    replies: list[Reply] = []
    waiting: set[str] = set()
    for place, packet in enumerate(packets):
        if place in part.taken:
            replies.append(_DONE)
        else:
            replies.append(_LEFT if packet.key in waiting else waits)
            waiting.add(packet.key)
    return replies


def written(envelope: Envelope, mode: str) -> EventPacket:
    """The event as others get it: without the extensions that only a receiver of this library
    understands. Raises MalformedEnvelope or ValueError where no reader could read it."""
    check(envelope)
    plain = replace(envelope, due=None, run_number=None, expires_in=None)
    request = request_of(mode, [plain])
    headers = {
        name: attributes.unquoted(name, it) if name.startswith("ce-") else it
        for name, it in request.headers.items()
    }
    return EventPacket(0, headers, request.body, envelope.key, envelope.type)
