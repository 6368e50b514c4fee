"""The witness of what a consumer does with the packets that its broker gave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outbox.inbox.batches import order_key
from outbox.replies import Outcome, Reply
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.wire.envelope import Envelope, from_structured

_KEPT_BY_CONSUMERS = frozenset({Outcome.FAILED, Outcome.TOO_BUSY, Outcome.NOT_ATTEMPTED})


@dataclass(eq=False, slots=True)
class Kept:
    """A packet that a broker keeps; `number` is the moment at which it came."""

    number: int
    packet: Packet


class Witness:
    """Compares what becomes of each packet with what is promised. `breaks` is told of a broken
    promise. Moments are numbers, which grow."""

    def __init__(self, breaks: Callable[[str, str], None]) -> None:
        self._breaks = breaks
        self._now = 0
        self._ids: dict[bytes, str] = {}
        self._settled: dict[str, int] = {}
        """By the id of a message, when something last became of it."""
        self._partitions: dict[str, int] = {}
        self._held: dict[LaneKey, int] = {}
        """The keys that are held up, and since when."""

    def moment(self) -> int:
        """The next moment."""
        self._now += 1
        return self._now

    def kept(self, packet: Packet) -> Kept:
        """Take note that the broker has that packet."""
        partition = self._partitions.setdefault(packet.key, packet.partition)
        if partition != packet.partition:
            both = f"{partition} and {packet.partition}"
            self._breaks("P6", f"{packet.key} has messages in the partitions {both}")
        return Kept(self.moment(), packet)

    def forgotten(self, gone: Sequence[Kept]) -> None:
        """Take note that the broker was told that these are done."""
        for each in gone:
            id = self._id(each.packet.body)
            if self._settled.get(id, 0) < each.number:
                self._breaks("P1", f"the message {id} is acknowledged, and nothing became of it")

    def read(self, envelopes: Sequence[Envelope], since: int) -> None:
        """Take note that a reader is about to handle these, which it took at that moment."""
        for each in envelopes:
            held_since = self._held.get(order_key(each))
            if held_since is not None and held_since < since:
                self._breaks("P6", f"{each.type} overtakes a message of its key that is held")

    def answered(self, envelope: Envelope, reply: Reply) -> None:
        """Take note of an answer of the inbox."""
        is_told = envelope.reply_to is not None
        is_over = reply.outcome.is_final or (is_told and reply.outcome not in _KEPT_BY_CONSUMERS)
        if is_over and reply.code != "unknown-type":
            self._settled[envelope.id] = self.moment()

    def told(self, reply: Reply) -> None:
        """Take note of an answer that is sent as a message."""
        if reply.outcome in _KEPT_BY_CONSUMERS:
            problem = f"a consumer tells that a command is {reply.outcome}, and tries it again"
            self._breaks("answers", problem)

    def set_aside(self, item: ToHold) -> None:
        """Take note that this is held, or dead."""
        envelope = item.envelope
        if envelope is None:
            return
        self._settled[envelope.id] = self.moment()
        if item.is_dead:
            return
        key = order_key(envelope)
        if key not in self._held and not item.attempts:
            self._breaks("P6", f"{envelope.type} waits for a message of another key")
        self._held.setdefault(key, self.moment())

    def freed(self, key: LaneKey) -> None:
        """Take note that a key is held up no more."""
        self._held.pop(key, None)

    def _id(self, body: bytes) -> str:
        if body not in self._ids:
            self._ids[body] = from_structured(body).id
        return self._ids[body]
