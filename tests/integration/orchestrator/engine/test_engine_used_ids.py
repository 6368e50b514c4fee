"""Starts under an id that was used before: they are told how that start ended, or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.node import Node
from orchestrator.machine.signals import Cancel
from outbox.contract import SagaEnded
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.in_time import engine_in_time, in_time
from tests.support.orchestrator.engines import Scripted, orchestrator_tables
from tests.support.orchestrator.nodes import make_node
from tests.support.orchestrator.stepping import Asking, go_on, told
from tests.support.orchestrator.trips import BOOKING, NAMES

USED, ACTIVE, *MESSAGES = (compose(1_893_456_000_000, number) for number in range(1, 8))
TRIP, ANOTHER = {"trip": "t1"}, {"trip": "t2"}
FULL = Reply(Outcome.REFUSED, code="full", reason="nothing is left")
ALONE = replace(BOOKING, one_active=True)


@dataclass
class World:
    """A node whose hotel refuses, or keeps all waiting."""

    clock: FakeClock
    engine: AsyncEngine
    participants: dict[str, Scripted]
    asking: Asking
    node: Node

    async def ask(self, message: int, input: dict[str, str] = TRIP, by: str = "mails") -> None:
        await self.asking.start(USED, input, by=by, message_id=MESSAGES[message])
        await go_on(self.node)

    def let_wait(self) -> None:
        hotels = self.participants["hotels"]
        hotels.replies["hotels.reserve-room.v1"] = Reply(Outcome.ONGOING)

    def told(self, name: str = "mails") -> list[SagaEnded]:
        return [it for it in told(self.participants[name]) if it.instance_id == USED]


@pytest.fixture
def database_schema() -> Schema:
    return in_time(orchestrator_tables)


@pytest.fixture
async def world(database: Database, participants: dict[str, Scripted]) -> AsyncIterator[World]:
    clock = FakeClock()
    participants["hotels"].replies["hotels.reserve-room.v1"] = FULL
    async with engine_in_time(database, clock) as engine:
        node = make_node(engine, [ALONE], NAMES, clock=clock, transports=participants)
        world = World(clock, engine, participants, Asking(engine, clock), node)
        await go_on(node)
        yield world


def of_reuse(news: SagaEnded, *words: str) -> None:
    """It says that the id is another start's, and names both."""
    assert (news.status, news.code) == ("REFUSED", "id-reused")
    for word in (USED, *words):
        assert word in (news.reason or "")


async def test_another_message_for_a_run_that_ended_is_told_how_and_why(world: World) -> None:
    await world.ask(0)
    await world.ask(1)
    first, again = world.told()
    for news in (first, again):
        assert (news.status, news.code, news.reason) == ("COMPENSATED", "full", "nothing is left")
    assert (first.state is not None, again.state) == (True, None)


async def test_another_message_for_a_start_that_was_refused_is_told_why(world: World) -> None:
    await world.ask(0, {"journey": "t1"})
    await world.ask(1, {"journey": "t1"})
    first, again = world.told()
    assert (first.status, first.code) == ("REFUSED", "refused")
    assert first == again


async def test_another_message_is_answered_however_late_it_comes(world: World) -> None:
    """A start has no age."""
    await world.ask(0)
    world.clock.advance(timedelta(days=400).total_seconds())
    await world.ask(1)
    assert [it.status for it in world.told()] == ["COMPENSATED", "COMPENSATED"]


@pytest.mark.parametrize(
    ("input", "by"), [(ANOTHER, "mails"), (TRIP, "payments"), ({"journey": "t1"}, "mails")]
)
async def test_other_input_or_another_sender_under_a_used_id_is_refused_and_both_are_named(
    world: World, input: dict[str, str], by: str
) -> None:
    await world.ask(0)
    await world.ask(1, input, by)
    of_reuse(world.told(by)[-1], "book-trip", "by mails", f"by {by}")
    assert len(await world.asking.rows(tables.saga)) == 1
    assert await world.asking.rows(tables.saga_alias) == []


async def test_it_is_refused_at_once_while_the_run_lives_whose_end_is_told_all_the_same(
    world: World,
) -> None:
    world.let_wait()
    await world.ask(0)
    await world.ask(1, ANOTHER)
    (refused,) = world.told()
    of_reuse(refused, "book-trip")
    await world.asking.signal(USED, Cancel("ada", "enough"))
    world.participants["hotels"].replies.clear()
    world.clock.advance(60)
    await go_on(world.node)
    assert [(it.status, it.code) for it in world.told()] == [
        ("REFUSED", "id-reused"),
        ("COMPENSATED", "cancelled"),
    ]


async def test_two_starts_of_one_id_in_one_commit_are_told_apart(world: World) -> None:
    for number, input in enumerate((TRIP, ANOTHER, TRIP)):
        await world.asking.start(USED, input, by="mails", message_id=MESSAGES[number])
    await go_on(world.node)
    refused, ended = sorted(world.told(), key=lambda it: it.status, reverse=True)
    of_reuse(refused)
    assert ended.status == "COMPENSATED"


async def test_other_input_under_the_id_of_an_alias_is_refused(world: World) -> None:
    world.let_wait()
    await world.asking.start(ACTIVE, TRIP, message_id=MESSAGES[4])
    await go_on(world.node)
    await world.ask(0)
    (alias,) = await world.asking.rows(tables.saga_alias)
    assert (alias.id, alias.saga_id) == (USED, ACTIVE)
    await world.ask(1, ANOTHER)
    of_reuse(world.told()[-1], "book-trip")


async def test_other_input_under_the_id_of_a_refused_start_is_refused(world: World) -> None:
    await world.ask(0, {"journey": "t1"})
    await world.ask(1)
    of_reuse(world.told()[-1], "a start that was refused", "book-trip")


async def test_a_start_that_older_code_took_in_counts_as_the_same(world: World) -> None:
    """It kept no fingerprint, so what it was is not known."""
    await world.ask(0)
    async with world.engine.begin() as connection:
        await connection.execute(update(tables.saga).values(fingerprint=None))
    await world.ask(1, ANOTHER)
    assert [it.status for it in world.told()] == ["COMPENSATED", "COMPENSATED"]
