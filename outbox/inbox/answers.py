"""The answers to one batch of messages, and the end of the time for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from outbox.inbox.batches import Slot, holds_key, is_asked_for_again, order_key
from outbox.inbox.outside.delivery import Delivery
from outbox.inbox.rows import Arrival
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope

IN_HAND = Reply(
    Outcome.ONGOING,
    code="ongoing",
    reason="an earlier delivery of it is still in hand",
    retry_after=1.0,
)
_GOES_ON = Reply(
    Outcome.ONGOING,
    code="ongoing",
    reason="its handler goes on, and may take longer than a delivery",
    retry_after=1.0,
)
_BEHIND = Reply(
    Outcome.NOT_ATTEMPTED,
    code="not-attempted",
    reason="an earlier message of its key in this batch comes again",
)
_NO_TIME = Reply(
    Outcome.NOT_ATTEMPTED,
    code="not-attempted",
    reason="the time for this batch was over",
)


class Answers:
    """The answers to one delivery, by position.

    Messages that are readable go through `admits` and `answer` in their order. `close` ends it: an
    answer that comes later reaches the sender with the next copy only.
    """

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self.is_closed = False
        self.delivery = Delivery()
        """The same delivery, as far as it waits for calls to the outside."""
        self.in_transaction: Sequence[Slot] = ()
        """The messages whose transaction goes on."""
        self._envelopes = envelopes
        self._replies: list[Reply | None] = [None] * len(envelopes)
        self._waiting: set[tuple[bool, str]] = set()
        self._rejected: dict[int, Reply] = {}
        self._held: set[tuple[bool, str]] = set()

    def sort_out(self, position: int, read: Arrival | Reply, known: Reply | None) -> Arrival | None:
        """The message at that position, if it is to be worked on. `read` is it, or its rejection;
        `known` an answer that it has already, which comes again."""
        envelope = self._envelopes[position]
        key = order_key(envelope)
        if isinstance(read, Reply):
            self._rejected[position] = read
            if holds_key(read):
                self._held.add(key)
            return None
        if key in self._held:
            self._replies[position] = _BEHIND
            return None
        if known is not None:
            self._replies[position] = known
            self._held.add(key)
            return None
        return read

    def has_given(self, position: int, reply: Reply | None) -> bool:
        """Whether that reply is the answer to the message at that position."""
        return reply is not None and self._replies[position] is reply

    def admits(self, slot: Slot) -> bool:
        """Whether it is this message's turn; if not, it is answered so."""
        if order_key(slot.arrival.envelope) in self._waiting:
            self._put(slot, _BEHIND)
        elif self.is_closed:
            self._put(slot, _NO_TIME)
        else:
            return True
        return False

    def answer(self, slot: Slot, reply: Reply) -> None:
        """Answer a message."""
        self._put(slot, reply)
        if holds_key(reply) or is_asked_for_again(slot.arrival.envelope, reply):
            self._waiting.add(order_key(slot.arrival.envelope))

    def close(self) -> None:
        """End the time of this delivery: what was not begun is not begun."""
        self.is_closed = True

    def answers(self) -> list[Reply]:
        """All answers, once all is done or the delivery is closed."""
        replies = list(self._replies)
        for position, reply in enumerate(replies):
            if reply is not None and reply.is_pending:
                id = self._envelopes[position].id
                replies[position] = self.delivery.answers.get(id, reply)
        for slot in self.in_transaction:
            for position in slot.positions:
                if replies[position] is None:
                    replies[position] = _GOES_ON
        waiting = {
            order_key(envelope)
            for envelope, reply in zip(self._envelopes, replies, strict=True)
            if reply is not None and reply.outcome is Outcome.ONGOING
        }
        for position, reply in enumerate(replies):
            if reply is None and position not in self._rejected:
                behind = order_key(self._envelopes[position]) in waiting
                replies[position] = _BEHIND if behind else _NO_TIME
        return _placed(self._rejected, self._envelopes, replies)

    def _put(self, slot: Slot, reply: Reply) -> None:
        for position in slot.positions:
            self._replies[position] = reply


def _placed(
    rejected: Mapping[int, Reply], envelopes: Sequence[Envelope], replies: Sequence[Reply | None]
) -> list[Reply]:
    """The answers with the rejections among them, unless something before those comes again."""
    waiting: set[tuple[bool, str]] = set()
    placed: list[Reply] = []
    for position, envelope in enumerate(envelopes):
        key = order_key(envelope)
        if (reply := rejected.get(position)) is not None:
            reply = _BEHIND if key in waiting else reply
        else:
            reply = replies[position]
            assert reply is not None, "every readable message is answered"
        placed.append(reply)
        if holds_key(reply):
            waiting.add(key)
    return placed


def too_busy(reason: str) -> Reply:
    """The answer to a message that was not tried, for want of room."""
    return Reply(Outcome.TOO_BUSY, code="too-busy", reason=reason, retry_after=1.0)
