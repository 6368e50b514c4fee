"""A transport whose requests stay in the air."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outbox.replies import Reply
from outbox.transports.base import Answered, Delivery, Unreachable
from outbox.wire.envelope import Envelope
from tests.support.outbox.relays import DONE
from tests.support.processes.waiting import until

SILENT = Unreachable("no answer in time", sent=True)


class Air:
    """A transport whose requests stay in the air until the test answers them."""

    def __init__(self) -> None:
        self.requests: list[tuple[list[str], asyncio.Future[Delivery]]] = []

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        answer: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self.requests.append(([it.id for it in envelopes], answer))
        return await answer

    async def aclose(self) -> None:
        """Nothing is open."""

    @property
    def open(self) -> int:
        """How many requests have no answer."""
        return sum(not answer.done() for _, answer in self.requests)

    @property
    def ids(self) -> list[list[str]]:
        """The messages of each request."""
        return [ids for ids, _ in self.requests]

    def answer(self, number: int, reply: Reply = DONE) -> None:
        """Answer all messages of that request so."""
        ids, answer = self.requests[number]
        answer.set_result(Answered([reply] * len(ids)))

    def lose(self, number: int) -> None:
        """Let that request have no answer."""
        self.requests[number][1].set_result(SILENT)

    async def until(self, count: int) -> None:
        """Wait until so many requests were made."""

        async def there() -> bool:
            return len(self.requests) >= count

        await until(there, what=f"{count} requests are in the air")
