"""Operations on what a service received by a broker and could not handle yet."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.errors import NoSuchMessage
from outbox.operations.received import ReceivedOperations
from outbox.tables import DEFAULT_TABLES
from outbox.transports.brokers.held.operators import MAX_AT_ONCE, Selection
from outbox.transports.brokers.held.rows import State
from tests.support.outbox.holding import HoldingBench, Trouble, unread
from tests.support.outbox.inboxes import Names


def operations(bench: HoldingBench, engine: AsyncEngine) -> ReceivedOperations:
    return ReceivedOperations(engine, DEFAULT_TABLES, bench.clock, Names())


@pytest.mark.parametrize("change", ["redrive", "drop"])
async def test_a_dry_run_counts_more_than_a_transaction_changes(
    engine: AsyncEngine, change: str
) -> None:
    bench, count = HoldingBench(engine), MAX_AT_ONCE + 1
    await bench.table.hold([unread(b"what? %d" % number) for number in range(count)])
    before, does = await bench.rows(), operations(bench, engine)
    changed = does.redrive if change == "redrive" else does.drop
    chosen = Selection(state=State.DEAD)
    told = await changed(chosen, dry_run=True)
    assert (told.is_dry_run, told.messages) == (True, count)
    assert await bench.rows() == before
    assert (await changed(chosen)).messages == count


async def test_what_is_to_be_sent_as_new_must_fit_the_filters_too(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, Trouble("first", "second").handlers())
    await bench.hold(bench.note("first"), bench.note("second", "bob"))
    await bench.work(rounds=3)
    before, does = await bench.rows(), operations(bench, engine)
    assert [row["state"] for row in before] == ["dead", "dead"]
    seqs = [row["seq"] for row in before]
    for dry_run in (True, False):
        with pytest.raises(NoSuchMessage, match=f"the message {seqs[1]};"):
            await does.redrive(Selection(key="ada", seqs=seqs), as_new=True, dry_run=dry_run)
    assert await bench.rows() == before
    done = await does.redrive(Selection(key="ada", seqs=seqs[:1]), as_new=True)
    assert done.messages == 1
