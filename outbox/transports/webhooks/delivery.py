"""The carriage of one delivery's events to a subscriber: requests in order per key, until one finds
no answer or the time is over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from outbox.replies import Outcome, Reply
from outbox.safe_text import fit
from outbox.transports.base import Answered, Delivery, Unreachable
from outbox.transports.webhooks.answers import Declined, Taken
from outbox.wire.envelope import Envelope

Send = Callable[[Sequence[Envelope]], Awaitable[Taken | Declined | Unreachable]]
"""Makes one request."""

_TAKEN = Reply(Outcome.DONE)
_LEFT = Reply(Outcome.NOT_ATTEMPTED)


class Carriage:
    """The carriage of these events. `may_begin()` tells whether another request may be made."""

    def __init__(
        self, envelopes: Sequence[Envelope], send: Send, may_begin: Callable[[], bool]
    ) -> None:
        self._envelopes = envelopes
        self._send = send
        self._may_begin = may_begin
        # By place: an id may be there twice.
        self._replies: dict[int, Reply] = {}
        self._failed: set[str] = set()
        self._in_trouble: set[int] = set()
        self._troubles: list[Unreachable] = []
        self._undivided: Sequence[int] = ()

    @property
    def trouble(self) -> Unreachable | None:
        """What the first request without an answer says; nothing is begun after it."""
        return self._troubles[0] if self._troubles else None

    @property
    def answered(self) -> frozenset[str]:
        """The keys of which an event has its answer."""
        return frozenset(self._envelopes[place].key for place in self._replies)

    @property
    def undivided(self) -> tuple[str, int] | None:
        """The smallest batch that was refused while the time was over, or trouble came, before one
        of its events had an answer: the key of its first event, and how many events it has."""
        if not self._undivided:
            return None
        return self._envelopes[self._undivided[0]].key, len(self._undivided)

    def answer(self, place: int, reply: Reply) -> None:
        """Note the answer to the event at that place, which is not sent."""
        self._replies[place] = reply

    async def one_by_one(self, at_once: int) -> None:
        """One event a request, so many requests side by side, for different keys."""
        queues: dict[str, list[int]] = {}
        for place in self._unanswered():
            queues.setdefault(self._envelopes[place].key, []).append(place)
        waiting = deque(queues.values())

        async def work() -> None:
            while waiting:
                for place in waiting.popleft():
                    await self._carry([place])

        await asyncio.gather(*(work() for _ in range(min(at_once, len(waiting)))))

    async def in_batches(self, most: int) -> None:
        """Up to `most` events a request, one request after another."""
        places = self._unanswered()
        for first in range(0, len(places), most):
            await self._carry(places[first : first + most])

    @property
    def delivery(self) -> Delivery:
        """What became of it. Where a part was answered and then came trouble, the events in trouble
        wait a little without a failure of theirs, and the others are as if never tried."""
        if self.trouble is not None and not self._replies:
            return self.trouble
        return Answered([self._reply(place) for place in range(len(self._envelopes))])

    def _reply(self, place: int) -> Reply:
        if place in self._in_trouble and self.trouble is not None:
            reason = fit(self.trouble.reason)
            return Reply(Outcome.ONGOING, code="no-answer", reason=reason)
        return self._replies.get(place, _LEFT)

    def _unanswered(self) -> list[int]:
        return [place for place in range(len(self._envelopes)) if place not in self._replies]

    async def _carry(self, places: Sequence[int]) -> None:
        places = [it for it in places if self._envelopes[it].key not in self._failed]
        if not places or self._troubles or not self._may_begin():
            # Later events of these keys must not leave before them.
            self._failed |= {self._envelopes[it].key for it in places}
            return
        match await self._send([self._envelopes[it] for it in places]):
            case Taken():
                self._replies |= dict.fromkeys(places, _TAKEN)
            case Declined(reason, is_of_one) if is_of_one and len(places) > 1:
                # The others must not wait for the one that is at fault.
                middle = len(places) // 2
                await self._carry(places[:middle])
                await self._carry(places[middle:])
                if not self._undivided and self._replies.keys().isdisjoint(places):
                    self._undivided = places
            case Declined(reason):
                self._fail(places, Reply(Outcome.FAILED, code="declined", reason=fit(reason)))
            case Unreachable() as trouble:
                self._troubles.append(trouble)
                self._in_trouble.update(places)
                self._failed |= {self._envelopes[it].key for it in places}

    def _fail(self, places: Sequence[int], reply: Reply) -> None:
        """The first event of each key failed; those behind it were not tried."""
        for place in places:
            key = self._envelopes[place].key
            if key not in self._failed:
                self._replies[place] = reply
                self._failed.add(key)
