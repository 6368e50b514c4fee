"""When a node tells of silent participants: as soon as something has changed, and not more often
than it looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.silences import TOLD_EVERY, Silences
from orchestrator.store.silence_store import SilenceStore
from outbox.relay.breaker import Breaker, Silence
from outbox.testing import FakeClock

FIRST = Silence(since=5.0, deliveries=1, reason="refused", until=5.5)
SECOND = Silence(since=5.0, deliveries=2, reason="refused", until=7.0)


class Told:
    """A node whose participants are as the test says, and what it wrote of them."""

    def __init__(self) -> None:
        self.silent: dict[str, Silence] = {}
        self.written: list[tuple[str, dict[str, Silence]]] = []
        self.is_away = False
        self.name = "node-1"
        self.silences = Silences(
            cast(AsyncEngine, SimpleNamespace(begin=self._begin)),
            cast(SilenceStore, self),
            lambda: dict(self.silent),
            name=lambda: self.name,
            clock=FakeClock(),
        )

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[None]:
        if self.is_away:
            raise ConnectionRefusedError
        yield

    async def replace(
        self, _: Any, owner: str, silences: Mapping[str, Silence], *, monotonic: float
    ) -> None:
        """As the store does."""
        self.written.append((owner, dict(silences)))

    async def look(self) -> list[dict[str, Silence]]:
        """What was written at a look."""
        before = len(self.written)
        assert await self.silences.tell_once() == TOLD_EVERY
        return [silences for _, silences in self.written[before:]]


async def test_a_node_whose_participants_answer_writes_nothing() -> None:
    told = Told()
    assert await told.look() == []
    assert await told.look() == []


async def test_each_change_is_written_once_and_the_end_as_well() -> None:
    told = Told()
    told.silent["hotels"] = FIRST
    assert await told.look() == [{"hotels": FIRST}]
    assert await told.look() == []
    told.silent["hotels"] = SECOND
    assert await told.look() == [{"hotels": SECOND}]
    told.silent["trains"] = FIRST
    assert await told.look() == [{"hotels": SECOND, "trains": FIRST}]
    told.silent.clear()
    assert await told.look() == [{}]
    assert await told.look() == []


async def test_what_could_not_be_written_is_written_at_the_next_look() -> None:
    told = Told()
    told.silent["hotels"] = FIRST
    told.is_away = True
    with pytest.raises(ConnectionRefusedError):
        await told.look()
    told.is_away = False
    assert await told.look() == [{"hotels": FIRST}]


async def test_a_node_under_another_name_tells_all_of_it_anew() -> None:
    told = Told()
    told.silent["hotels"] = FIRST
    await told.look()
    told.name = "node-2"
    await told.look()
    assert told.written == [("node-1", {"hotels": FIRST}), ("node-2", {"hotels": FIRST})]


def test_a_silence_is_counted_from_its_first_delivery_on() -> None:
    breaker = Breaker().without_answer(7.0, sent=True, chance=0.0)
    assert (breaker.since, breaker.failures) == (7.0, 1)
    breaker = breaker.without_answer(9.0, sent=True, chance=0.0)
    assert (breaker.since, breaker.failures) == (7.0, 2)
    # After an answer it is another silence.
    breaker = breaker.answered(100).without_answer(20.0, sent=True, chance=0.0)
    assert (breaker.since, breaker.failures) == (20.0, 1)
