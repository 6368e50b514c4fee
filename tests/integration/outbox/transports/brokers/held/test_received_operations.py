"""Operations on what a service received by a broker and could not handle yet."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.errors import NoSuchMessage
from outbox.operations.received import ReceivedOperations
from outbox.tables import DEFAULT_TABLES
from outbox.transports.brokers.held.operators import Selection
from tests.support.outbox.holding import HoldingBench, Trouble
from tests.support.outbox.inboxes import Names


def operations(bench: HoldingBench, engine: AsyncEngine) -> ReceivedOperations:
    return ReceivedOperations(engine, DEFAULT_TABLES, bench.clock, Names())


async def test_what_is_to_be_sent_as_new_must_fit_the_filters_too(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, Trouble("first", "second").handlers())
    await bench.hold(bench.note("first"), bench.note("second", "bob"))
    await bench.work(rounds=3)
    before, does = await bench.rows(), operations(bench, engine)
    assert [row["state"] for row in before] == ["dead", "dead"]
    seqs = [row["seq"] for row in before]
    for dry_run in (True, False):
        with pytest.raises(NoSuchMessage, match=f"the first of them {seqs[1]}"):
            await does.redrive(Selection(key="ada", seqs=seqs), as_new=True, dry_run=dry_run)
    assert await bench.rows() == before
    done = await does.redrive(Selection(key="ada", seqs=seqs[:1]), as_new=True)
    assert done.messages == 1
