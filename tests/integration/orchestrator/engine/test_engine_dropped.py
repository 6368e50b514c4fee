"""An operator's drop in the outbox of an orchestrator, beside a run that waits for an answer."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.machine.instance import Status
from outbox.clock import SystemClock
from outbox.errors import BelongsToSaga
from outbox.operations.operations import Operations
from outbox.operations.selection import Selection
from outbox.replies import Outcome, Reply
from outbox.tables import DEFAULT_TABLES, outbox_held
from tests.support.orchestrator.engines import Node, Scripted
from tests.support.orchestrator.trips import BOOKING, Trip
from tests.support.outbox.inboxes import Names
from tests.support.processes.waiting import until

CHARGE = "payments.charge.v1"


@pytest.mark.parametrize("buried_by", [None, "ann"])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_the_command_of_a_run_is_not_dropped_while_its_key_rests(
    node: Node,
    engine: AsyncEngine,
    participants: dict[str, Scripted],
    buried_by: str | None,
    dry_run: bool,
) -> None:
    """Its row alone brings it to the participant: without it the run would wait for ever."""
    payments = participants["payments"]
    payments.replies[CHARGE] = Reply(Outcome.FAILED, reason="the bank is closed")
    saga_id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
    resting: list[str] = []

    async def rests() -> bool:
        async with engine.connect() as connection:
            resting[:] = (await connection.scalars(select(outbox_held.c.head_id))).all()
        return bool(resting)

    await until(rests, what="the key of the command rests")
    operations = Operations(engine, DEFAULT_TABLES, SystemClock(), Names())
    chosen = Selection(ids=(resting[0],))
    with pytest.raises(BelongsToSaga, match=f"command of the saga {saga_id}.*waits"):
        await operations.drop(chosen, buried_by=buried_by, dry_run=dry_run)
    del payments.replies[CHARGE]
    await operations.redrive(chosen)
    await node.until_status(saga_id, Status.COMPLETED)
