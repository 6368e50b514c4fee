"""What a committer tells of its own work: each transaction of a divided commit gets it on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.engine.commits.committer import Committer
from orchestrator.engine.commits.items import Item, Tell
from orchestrator.machine.signals import Pause
from outbox.coordination.progress import STUCK_AFTER
from outbox.ids import compose
from outbox.testing import FakeClock
from tests.support.orchestrator.nodes import make_node
from tests.support.orchestrator.trips import BOOKING, NAMES

pytestmark = pytest.mark.databases("sqlite")


async def test_a_commit_that_is_divided_into_slow_ones_is_work_that_gets_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    node = make_node(engine, [BOOKING], NAMES, clock=clock)
    ids = [compose(1_900_000_000_000, number) for number in range(8)]
    to_blame, finish = ids[5], asyncio.Event()
    committed: list[str] = []
    seen: list[float] = []

    async def transact(self: Committer, items: Sequence[Item]) -> None:
        clock.advance(STUCK_AFTER)
        seen.extend(node.progress.stalled.values())
        if to_blame in {item.instance_id for item in items}:
            raise ValueError("a mistake")
        committed.extend(item.instance_id for item in items)

    monkeypatch.setattr(Committer, "_transact", transact)
    node.committer.put([Tell(it, Pause("ann", "a test")) for it in ids])
    finish.set()
    await node.committer.run(finish)
    assert sorted(committed) == [it for it in ids if it != to_blame]
    assert max(seen) == STUCK_AFTER
    assert not node.progress.stuck()
    assert set(node.progress.stalled.values()) == {0}
