"""Group commits that are one statement, and those that cannot be one: what both come to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import Saga, tables
from orchestrator.definition.steps import retriable
from orchestrator.engine.commits.items import Begin, Started, Tell
from orchestrator.engine.engine import IdempotencyKey
from orchestrator.engine.node import Node
from orchestrator.errors import ActiveAlready
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Replied
from orchestrator.store.commit_statements import CommitStatements
from orchestrator.store.sharding import SHARDS, shard_of
from outbox.clock import SystemClock
from outbox.coordination.leases import Leases
from outbox.crashpoints import Crash
from outbox.ids import compose
from outbox.messages import Command
from outbox.replies import Outcome, Reply
from outbox.tables import outbox
from outbox.testing import crash_at
from tests.support.databases.locks import until_it_waits
from tests.support.orchestrator.engines import Scripted, running
from tests.support.orchestrator.nodes import make_node, make_ports
from tests.support.orchestrator.stepping import Asking
from tests.support.orchestrator.trips import BOOKING, NAMES, Trip

pytestmark = pytest.mark.databases("postgresql")


@dataclass(frozen=True)
class Count(Command[None], type="desk.count.v1", key="key"):
    key: str


@dataclass(frozen=True)
class Counted:
    key: str


COUNT: Saga[Counted] = Saga(
    name="count",
    version=1,
    state=Counted,
    key=lambda it: it.key,
    steps=[retriable("count", lambda it: Count(it.key))],
    one_active=True,
)
RUN, ALIAS = (compose(1_900_000_000_000, number) for number in (1, 2))
DONE = Reply(Outcome.DONE)


async def begin(node: Node, engine: AsyncEngine) -> str:
    """Let the run begin, whose originator is the desk. Returns its command."""
    node.committer.put([Begin(RUN, COUNT, Counted("k"), originator="desk")])
    await node.committer.run_once()
    async with engine.connect() as connection:
        command: str = (await connection.scalars(select(outbox.c.id))).one()
    return command


async def told(engine: AsyncEngine) -> set[str]:
    """The runs and aliases whose ends are told."""
    query = select(outbox.c.aggregateid).where(outbox.c.type == "orchestrator.saga-ended.v1")
    async with engine.connect() as connection:
        return set((await connection.scalars(query)).all())


async def add_alias(engine: AsyncEngine, connection: Any) -> None:
    """What a node writes that owns a start which loses to the run."""
    store = make_ports(engine, SystemClock()).starts
    assert await store.active(connection, "count", "k") == RUN
    await store.add_alias(
        connection,
        ALIAS,
        saga_id=RUN,
        originator="desk",
        reason=None,
        trace=None,
        start_id=None,
        fingerprint=None,
    )


async def test_every_commit_of_a_common_run_is_one_statement_from_its_begin_to_its_end(
    engine: AsyncEngine,
) -> None:
    async with running(engine, [COUNT], {"desk": Scripted()}) as node:
        for number in range(3):
            started = await node.engine.start(COUNT, Counted(f"k{number}"))
            await node.until_status(started.instance_id, Status.COMPLETED)
        stats = node.engine.stats
        assert stats.in_one_trip == stats.commits >= 6


async def test_a_start_with_an_idempotency_key_is_one_statement_and_its_repetition_finds_the_run(
    engine: AsyncEngine,
) -> None:
    key = IdempotencyKey("mine", b"f" * 32)
    async with running(engine, [COUNT], {"desk": Scripted()}) as node:
        started = await node.engine.start(COUNT, Counted("k"), key=key)
        await node.until_status(started.instance_id, Status.COMPLETED)
        stats = node.engine.stats
        assert stats.in_one_trip == stats.commits
        again = await node.engine.start(COUNT, Counted("k"), key=key)
    assert again == Started(started.instance_id, is_new=False)


async def test_a_start_by_a_message_is_one_statement_and_its_repetition_is_told_the_end(
    engine: AsyncEngine,
) -> None:
    clock = SystemClock()
    node = make_node(engine, [COUNT], ["desk"], clock=clock)
    await node.shards.tend_once()
    asking = Asking(engine, clock)
    for message_id, is_one in ((ALIAS, True), (compose(1_900_000_000_000, 4), False)):
        before = node.committer.stats.in_one_trip
        await asking.start(RUN, {"key": "k"}, name="count", by="desk", message_id=message_id)
        node.committer.look()
        await node.committer.run_once()
        assert (node.committer.stats.in_one_trip > before) is is_one
        assert await asking.rows(tables.saga_signal) == []
    assert len(await asking.rows(tables.saga)) == 1


async def test_a_start_that_loses_its_key_is_told_so_and_the_others_of_its_commit_begin(
    engine: AsyncEngine,
) -> None:
    node = make_node(engine, [COUNT, BOOKING], ["desk", *NAMES], clock=SystemClock())
    await node.shards.tend_once()
    await node.committer.run_once()
    await begin(node, engine)
    futures: list[asyncio.Future[Started]] = [
        asyncio.get_running_loop().create_future() for _ in range(2)
    ]
    node.committer.put(
        [
            Begin(ALIAS, COUNT, Counted("k"), done=futures[0]),
            Begin(compose(1_900_000_000_000, 3), BOOKING, Trip("one"), done=futures[1]),
        ]
    )
    await node.committer.run_once()
    assert isinstance(futures[0].exception(), ActiveAlready)
    assert futures[1].result().is_new
    async with engine.connect() as connection:
        assert len((await connection.scalars(select(tables.saga.c.id))).all()) == 2


# Deaths


@pytest.mark.parametrize(
    ("point", "count"),
    [("engine: before commit", 0), ("engine: after commit, before hand-over", 1)],
)
async def test_a_node_that_dies_at_the_commit_leaves_all_of_it_or_nothing(
    engine: AsyncEngine, point: str, count: int
) -> None:
    node = make_node(engine, [COUNT], ["desk"], clock=SystemClock())
    await node.shards.tend_once()
    await node.committer.run_once()
    with crash_at(point), pytest.raises(Crash):
        await begin(node, engine)
    assert node.committer.stats.in_one_trip == count
    async with engine.connect() as connection:
        for table in (tables.saga, tables.saga_batch, outbox):
            assert len((await connection.execute(select(table))).all()) == count


# Aliases


async def test_the_end_of_a_run_is_told_to_those_behind_its_aliases(engine: AsyncEngine) -> None:
    node = make_node(engine, [COUNT], ["desk"], clock=SystemClock())
    await node.shards.tend_once()
    await node.committer.run_once()
    command = await begin(node, engine)
    async with engine.begin() as connection:
        await add_alias(engine, connection)
    node.committer.put([Tell(RUN, Replied(command, DONE))])
    await node.committer.run_once()
    assert await told(engine) == {RUN, ALIAS}


@pytest.mark.parametrize("knows", [True, False])
async def test_the_end_of_a_run_is_told_to_one_whose_alias_another_node_adds_meanwhile(
    engine: AsyncEngine, knows: bool
) -> None:
    """Only a node with all leases may end a run in one statement: that sees no alias which is
    committed while it waits. Whether it has them, the database knows."""
    clock = SystemClock()
    first, second = (
        make_node(engine, [COUNT], ["desk"], clock=clock, owner=name) for name in ("1", "2")
    )
    await first.shards.tend_once()
    before = first.shards.leases
    await first.shards.give_up([it for it in SHARDS if it != shard_of(RUN)])
    await second.shards.tend_once()
    if not knows:
        first.shards.leases = before
    await first.committer.run_once()
    command = await begin(first, engine)
    statements = make_ports(engine, clock).statements
    async with engine.connect() as another:
        assert await statements.fence(another, second.shards.leases.epochs)
        await add_alias(engine, another)
        first.committer.put([Tell(RUN, Replied(command, DONE))])
        ending = asyncio.create_task(first.committer.run_once())
        await until_it_waits(engine, ending)
        await another.commit()
    async with asyncio.timeout(10):
        await ending
    assert await told(engine) == {RUN, ALIAS}


async def test_a_node_has_all_leases_only_after_an_alias_that_another_one_is_adding(
    engine: AsyncEngine,
) -> None:
    clock = SystemClock()
    first, second = (
        make_node(engine, [COUNT], ["desk"], clock=clock, owner=name, is_dead=lambda it: it == "2")
        for name in ("1", "2")
    )
    await second.shards.tend_once()
    statements = make_ports(engine, clock).statements
    async with engine.connect() as another:
        assert await statements.fence(another, second.shards.leases.epochs)
        taking = asyncio.create_task(first.shards.tend_once())
        await until_it_waits(engine, taking)
        assert first.shards.leases.epochs.keys() < set(SHARDS)
        await another.commit()
    async with asyncio.timeout(10):
        await taking
    await first.shards.tend_once()
    assert first.shards.leases.epochs.keys() == set(SHARDS)


async def test_a_run_is_not_kept_whose_shard_was_lost_and_gained_during_its_commit(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node may have worked on it since, before the answer of the commit arrived."""
    node = make_node(engine, [COUNT], ["desk"], clock=SystemClock())
    await node.shards.tend_once()
    leases = node.shards.leases
    commit_at_once = CommitStatements.commit_at_once

    async def late(statements: CommitStatements, *args: Any, **named: Any) -> Any:
        told = await commit_at_once(statements, *args, **named)
        node.shards.lease(Leases())
        regained = {shard: epoch + 2 for shard, epoch in leases.epochs.items()}
        node.shards.lease(Leases(regained, leases.until))
        return told

    doubted: list[set[int]] = []
    monkeypatch.setattr(CommitStatements, "commit_at_once", late)
    monkeypatch.setattr(node.dispatcher, "distrust", lambda shards: doubted.append(set(shards)))
    await begin(node, engine)
    assert node.committer.stats.in_one_trip == 1
    assert node.committer.latest(RUN) is None
    assert doubted == [set(SHARDS)]


async def test_a_run_is_kept_whose_leases_were_renewed_during_its_commit(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(engine, [COUNT], ["desk"], clock=SystemClock())
    await node.shards.tend_once()
    commit_at_once = CommitStatements.commit_at_once

    async def slow(statements: CommitStatements, *args: Any, **named: Any) -> Any:
        told = await commit_at_once(statements, *args, **named)
        await node.shards.tend_once()
        return told

    monkeypatch.setattr(CommitStatements, "commit_at_once", slow)
    await begin(node, engine)
    assert node.committer.latest(RUN) is not None
