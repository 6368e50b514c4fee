"""A skip that asks first, with a participant whose inbox answers: what is skipped never runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from orchestrator import tables
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import Retry, Skip
from orchestrator.store.records import standing_of
from outbox.clock import SystemClock
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.replies import Done, Outcome, Pending, Reply
from outbox.retry import RetryPolicy
from outbox.transports.base import Transport
from outbox.transports.memory import MemoryTransport
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.orchestrator.engines import QUICK, VOID, Node, Scripted, running
from tests.support.orchestrator.trips import BOOKING, Charge, Trip
from tests.support.processes.waiting import until

ONCE = RetryPolicy(first=0.05, factor=1, ceiling=0.05, jitter=0, attempts=1)
SETTINGS = EngineSettings(relay=replace(QUICK, retry=ONCE))


class Payments:
    """The participant of the pivot. While it `loses` it answers that it failed, whether it ran or,
    with `reaches` unset, never got the command."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], answer: Any) -> None:
        self.charges: list[str] = []
        self.seen: list[Envelope] = []
        self.loses = self.reaches = True
        handlers = Handlers("payments")

        @handlers.on(Charge)
        async def charge(_: AsyncSession, __: Charge, context: Context) -> Any:
            self.charges.append(context.id)
            return answer

        self.inbox = Inbox(handlers, sessions, clock=SystemClock())

    async def receive(
        self, batch: Sequence[Envelope], settled: EndedSagas | None
    ) -> Sequence[Reply]:
        self.seen += batch
        replies = await self.inbox.receive(batch, settled) if self.reaches else []
        return [Reply(Outcome.FAILED) for _ in batch] if self.loses else replies

    def commands(self, type_: str) -> list[Envelope]:
        return [it for it in self.seen if it.type == type_]


@pytest.fixture
def sessions(
    database_factory: DatabaseFactory, make_engine: MakeEngine
) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(make_engine(database_factory("outbox")))


async def stuck(node: Node, payments: Payments) -> str:
    """A run whose charge became a dead letter."""
    id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
    await node.until_status(id, Status.STUCK)
    payments.loses = False
    payments.reaches = True
    return id


async def status_of_charge(engine: AsyncEngine) -> StepStatus:
    async with engine.connect() as connection:
        document = await connection.scalar(select(tables.saga.c.document))
    return standing_of(str(document)).steps["charge"].status


async def test_a_command_that_never_came_is_passed_over_and_a_late_copy_of_it_does_not_run(
    engine: AsyncEngine,
    participants: dict[str, Scripted],
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    payments = Payments(sessions, Done(None))
    payments.reaches = False
    ways: dict[str, Transport] = {**participants, "payments": MemoryTransport(payments.receive)}
    async with running(engine, [BOOKING], ways, settings=SETTINGS) as node:
        id = await stuck(node, payments)
        await node.engine.signal(id, Skip("charge", "ann", "in cash"))
        await node.until_status(id, Status.COMPLETED)
        (command, *_) = payments.commands("payments.charge.v1")
        (late,) = await payments.inbox.receive([command])
    assert late.outcome is Outcome.ALREADY_UNDONE
    assert payments.charges == []
    assert await status_of_charge(engine) is StepStatus.SKIPPED


async def test_a_command_that_ran_and_whose_answers_were_lost_is_done_after_all(
    engine: AsyncEngine,
    participants: dict[str, Scripted],
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    payments = Payments(sessions, Done(None))
    ways: dict[str, Transport] = {**participants, "payments": MemoryTransport(payments.receive)}
    async with running(engine, [BOOKING], ways, settings=SETTINGS) as node:
        id = await stuck(node, payments)
        await node.engine.signal(id, Skip("charge", "ann", "in cash"))
        await node.until_status(id, Status.COMPLETED)
    assert len(payments.charges) == 1
    assert await status_of_charge(engine) is StepStatus.DONE


async def test_a_pending_command_that_is_skipped_is_over_for_its_participant(
    engine: AsyncEngine,
    participants: dict[str, Scripted],
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    payments = Payments(sessions, Pending("the bank"))
    ways: dict[str, Transport] = {**participants, "payments": MemoryTransport(payments.receive)}
    async with running(engine, [BOOKING], ways, settings=SETTINGS) as node:
        id = await stuck(node, payments)
        await node.engine.signal(id, Skip("charge", "ann", "in cash"))
        await node.until_status(id, Status.COMPLETED)
        (command, *_) = payments.commands("payments.charge.v1")
        (late,) = await payments.inbox.receive([command])
    assert late.outcome is Outcome.ALREADY_UNDONE
    assert await status_of_charge(engine) is StepStatus.SKIPPED


async def test_a_retry_after_the_question_barred_the_pivot_undoes_the_run(
    engine: AsyncEngine,
    participants: dict[str, Scripted],
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    """The answer to the question is lost, and the person does not wait for it."""
    payments = Payments(sessions, Done(None))
    payments.reaches = False
    ways: dict[str, Transport] = {**participants, "payments": MemoryTransport(payments.receive)}
    async with running(engine, [BOOKING], ways, settings=SETTINGS) as node:
        id = await stuck(node, payments)
        payments.loses = True
        await node.engine.signal(id, Skip("charge", "ann", "in cash"))

        async def is_barred() -> bool:
            return any(it.type == VOID for it in payments.seen)

        await until(is_barred, what="the question has come")
        await node.engine.signal(id, Retry("charge", "ann", "she has no cash"))
        payments.loses = False
        await node.until_status(id, Status.COMPENSATED)
    assert payments.charges == []
