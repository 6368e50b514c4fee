"""What the engine promises when its database, its lease or its code fail it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator import tables
from orchestrator.definition.saga import Saga
from orchestrator.errors import DefinitionChanged, SecondNode, Unavailable
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Cancel
from orchestrator.store.commit_statements import CommitStatements
from orchestrator.store.sharding import SHARDS
from outbox import Tables
from outbox import tables as library
from outbox.replies import Outcome, Reply
from tests.support.orchestrator.engines import Node, Scripted, running
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    NAMES,
    ROOM,
    SEAT,
    ReserveRoom,
    Trip,
    trip,
)
from tests.support.processes.waiting import until

SEATED = {"number": "12a"}


async def take_over(engine: AsyncEngine) -> None:
    """Another node takes every shard, as after this one was stopped for longer than its lease."""
    async with engine.begin() as connection:
        await connection.execute(
            update(library.outbox_lease).values(
                owner="another", epoch=library.outbox_lease.c.epoch + 1
            )
        )


# P7: the fence


async def test_p7_a_node_whose_lease_went_to_another_writes_nothing_more(
    node: Node, participants: dict[str, Scripted], engine: AsyncEngine
) -> None:
    participants["hotels"].is_away = True
    started = await node.engine.start(BOOKING, Trip("one"))
    await until(lambda: participants["trains"].seen, what="the first step")
    await until_sent(node, started.instance_id, "reserve room")
    before = await node.rows(tables.saga)
    await take_over(engine)
    with pytest.raises(Unavailable):
        await node.engine.start(BOOKING, Trip("two"))
    participants["hotels"].is_away = False
    await until(lambda: participants["hotels"].seen, what="the delivery that was under way")
    await asyncio.sleep(0.3)  # for a commit that must not come
    assert await node.rows(tables.saga) == before


async def until_sent(node: Node, saga_id: str, step: str) -> None:
    async def sent() -> bool:
        lines = await node.rows(tables.saga_history)
        return any(it.step == step and it.happening == "sent" for it in lines)

    await until(sent, what=f"{step} of {saga_id} is sent")


async def test_a_run_that_another_node_wrote_is_read_again(
    node: Node, participants: dict[str, Scripted], engine: AsyncEngine
) -> None:
    """The second line behind the fence: the revision, and the numbers of the history."""
    participants["hotels"].is_away = True
    started = await node.engine.start(BOOKING, Trip("one"))
    await until_sent(node, started.instance_id, "reserve room")
    (row,) = await node.rows(tables.saga)
    async with engine.begin() as connection:
        await connection.execute(
            update(tables.saga).values(
                revision=tables.saga.c.revision + 5, entries=tables.saga.c.entries + 100
            )
        )
        await connection.execute(
            insert(tables.saga_history),
            [
                {
                    "saga_id": row.id,
                    "number": row.entries + place,
                    "at": row.created_at,
                    "happening": "sent",
                    "detail": "by another node",
                }
                for place in range(1, 101)
            ],
        )
    participants["hotels"].is_away = False
    await node.until_status(started.instance_id, Status.COMPLETED)
    lines = await node.rows(tables.saga_history)
    assert max(line.number for line in lines) > 100


# The unknown outcome of a commit


class LosesAnswers:
    """Makes the next commit of the engine go wrong: after it took place, or before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed: str | None = None
        self.lost = 0
        for owner, name in ((AsyncConnection, "commit"), (CommitStatements, "commit_at_once")):
            monkeypatch.setattr(owner, name, self._losing(getattr(owner, name)))

    def _losing(self, original: Any) -> Any:
        async def commit(*args: Any, **options: Any) -> Any:
            if self.armed is None:
                return await original(*args, **options)
            armed, self.armed = self.armed, None
            self.lost += 1
            if armed == "after":
                await original(*args, **options)
            raise ConnectionResetError("the answer to COMMIT was lost")

        return commit


@pytest.mark.parametrize("moment", ["after", "before"])
async def test_a_commit_whose_answer_was_lost_is_found_out(
    node: Node,
    participants: dict[str, Scripted],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    participants["hotels"].is_away = True
    loses = LosesAnswers(monkeypatch)
    started = await node.engine.start(BOOKING, Trip("one"))
    await until_sent(node, started.instance_id, "reserve room")
    loses.armed = moment
    participants["hotels"].is_away = False
    await node.until_status(started.instance_id, Status.COMPLETED)
    assert loses.lost == 1
    lines = await node.rows(tables.saga_history)
    ended = [line for line in lines if line.happening == "ended"]
    assert len(ended) == 1


async def test_a_start_whose_commit_took_place_unseen_is_a_start(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    loses = LosesAnswers(monkeypatch)
    loses.armed = "after"
    started = await node.engine.start(BOOKING, Trip("one"))
    assert loses.lost == 1
    await node.until_status(started.instance_id, Status.COMPLETED)


async def test_a_start_whose_commit_did_not_take_place_is_not_said_to_be_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    loses = LosesAnswers(monkeypatch)
    loses.armed = "before"
    with pytest.raises(Unavailable):
        await node.engine.start(BOOKING, Trip("one"))
    assert loses.lost == 1
    assert await node.rows(tables.saga) == []
    again = await node.engine.start(BOOKING, Trip("one"))
    await node.until_status(again.instance_id, Status.COMPLETED)


# One bad run


async def test_a_run_that_cannot_be_written_stops_no_other(
    node: Node, participants: dict[str, Scripted], engine: AsyncEngine
) -> None:
    participants["hotels"].is_away = True
    bad = await node.engine.start(BOOKING, Trip("bad"))
    await until_sent(node, bad.instance_id, "reserve room")
    async with engine.begin() as connection:
        # The number of its next line of history is taken.
        row = next(it for it in await node.rows(tables.saga))
        await connection.execute(
            insert(tables.saga_history).values(
                saga_id=bad.instance_id,
                number=row.entries + 1,
                at=row.created_at,
                happening="sent",
                detail="",
            )
        )
    good = [await node.engine.start(BOOKING, Trip(str(number))) for number in range(20)]
    participants["hotels"].is_away = False
    for each in good:
        await node.until_status(each.instance_id, Status.COMPLETED)

    async def parked() -> str:
        (row,) = [it for it in await node.rows(tables.saga) if it.id == bad.instance_id]
        return row.parked or ""

    # The others may be faster: the bad one is tried several times.
    await until(parked, what="the bad one is parked")
    assert "IntegrityError" in await parked()
    with pytest.raises(Unavailable, match="parked"):
        await node.engine.signal(bad.instance_id, Cancel("ada", "it is bad"))


async def test_a_saga_whose_own_code_fails_is_stuck_and_stops_no_other(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    def fails(_: Trip) -> ReserveRoom:
        raise RuntimeError("no room")

    broken: Saga[Trip] = replace(
        trip(SEAT, replace(ROOM, action=fails), CHARGE), name="broken-trip"
    )
    async with running(engine, [BOOKING, broken], participants) as node:
        bad = await node.engine.start(broken, Trip("bad"))
        good = await node.engine.start(BOOKING, Trip("good"))
        await node.until_status(good.instance_id, Status.COMPLETED)
        assert await node.until_status(bad.instance_id, Status.STUCK) == Status.STUCK


# Missing and changed code


async def test_a_run_whose_code_is_missing_waits_for_it(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    """Its answers are kept, also those that came in the meantime."""
    participants["hotels"].is_away = True
    async with running(engine, [BOOKING], participants) as node:
        started = await node.engine.start(BOOKING, Trip("one"))
        await until_sent(node, started.instance_id, "reserve room")
        await take_over(engine)
        participants["hotels"].is_away = False
    await let_go(engine)
    async with running(engine, [], participants) as without:

        async def is_parked() -> bool:
            (row,) = await without.rows(tables.saga)
            kept = await without.rows(tables.saga_signal)
            return row.parked is not None and bool(kept)

        await until(is_parked, what="the run is parked, with its answer kept")
    async with running(engine, [BOOKING], participants) as node:
        await node.until_status(started.instance_id, Status.COMPLETED)
        (row,) = await node.rows(tables.saga)
        assert row.parked is None


async def let_go(engine: AsyncEngine) -> None:
    """The other node, which has the shards, gives them back."""
    long_ago = select(func.min(tables.saga.c.created_at)).scalar_subquery()
    async with engine.begin() as connection:
        await connection.execute(
            update(library.outbox_lease).values(owner=None, expires_at=long_ago)
        )


async def test_a_definition_that_changed_under_its_version_is_refused(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    async with running(engine, [BOOKING], participants):
        pass
    with pytest.raises(DefinitionChanged, match="book-trip v1"):
        async with running(engine, [trip(SEAT, CHARGE)], participants):
            pass
    async with running(engine, [replace(trip(SEAT, CHARGE), version=2)], participants):
        pass


@pytest.mark.databases("sqlite")
async def test_a_second_node_on_sqlite_is_refused(
    node: Node, engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    with pytest.raises(SecondNode, match="PostgreSQL"):
        async with running(engine, [BOOKING], participants):
            pass


@pytest.mark.databases("sqlite")
async def test_another_installation_in_the_same_file_has_a_node_of_its_own(
    node: Node, engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    names = Tables("second_")
    async with engine.begin() as connection:
        for metadata in (names.metadata, tables.saga_tables(names).metadata):
            await connection.run_sync(metadata.create_all)
    async with running(engine, [BOOKING], participants, names=names):
        pass


# Dead letters


async def test_a_command_that_becomes_a_dead_letter_turns_the_run_back(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    rejected = Reply(Outcome.REJECTED, code="invalid-message", reason="no such field")
    participants["hotels"].replies["hotels.reserve-room.v1"] = rejected
    async with running(engine, [BOOKING], participants) as node:
        started = await node.engine.start(BOOKING, Trip("one"))
        await node.until_status(started.instance_id, Status.COMPENSATED)
        letters = await node.rows(library.outbox_dead)
    assert [letter.type for letter in letters] == ["hotels.reserve-room.v1"]
    assert participants["hotels"].types()[-1] == "hotels.release-room.v1"


async def test_a_message_that_fails_is_sent_again_and_holds_up_no_other_run(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    """Held in the table, while the others go on through memory."""
    hotels = participants["hotels"]
    hotels.replies["hotels.reserve-room.v1"] = Reply(Outcome.FAILED, reason="for a while")
    async with running(engine, [BOOKING], participants) as node:
        first = await node.engine.start(BOOKING, Trip("first"))

        async def is_held() -> bool:
            return bool(await node.rows(library.outbox_held))

        await until(is_held, what="its key rests")
        hotels.replies.clear()
        others = [await node.engine.start(BOOKING, Trip(str(number))) for number in range(40)]
        for each in (*others, first):
            await node.until_status(each.instance_id, Status.COMPLETED)
        assert await node.rows(library.outbox) == []
        # A hold ends by a transaction of its own.
        await until(partial(no_key_rests, node), what="no key rests")
    tries = [it for it in hotels.seen if it.correlation == first.instance_id]
    assert len({it.id for it in tries}) == 1


def test_there_are_as_many_shards_as_buckets_of_a_lane() -> None:
    assert len(SHARDS) == 16


async def test_what_was_not_delivered_from_memory_is_found_in_the_table(
    node: Node, participants: dict[str, Scripted]
) -> None:
    first = await node.engine.start(BOOKING, Trip("first"))
    await node.until_status(first.instance_id, Status.COMPLETED)  # by now all goes through memory
    participants["hotels"].refusals = 2
    second = await node.engine.start(BOOKING, Trip("second"))
    # Far sooner than the sweep, which looks at everything.
    await node.until_status(second.instance_id, Status.COMPLETED, deadline=10)
    assert participants["hotels"].refusals == 0


async def test_an_action_that_fails_does_not_hold_up_its_own_undo(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    """Its row is withdrawn from wherever it stands when the run turns back."""
    hotels = participants["hotels"]
    hotels.replies["hotels.reserve-room.v1"] = Reply(Outcome.FAILED, reason="for ever")
    async with running(engine, [BOOKING], participants) as node:
        started = await node.engine.start(BOOKING, Trip("one"))

        async def is_held() -> bool:
            return bool(await node.rows(library.outbox_held))

        await until(is_held, what="its key rests")
        await node.engine.signal(started.instance_id, Cancel("ada", "no room"))
        await node.until_status(started.instance_id, Status.COMPENSATED)
        assert await node.rows(library.outbox) == []
        await until(partial(no_key_rests, node), what="no key rests")


async def no_key_rests(node: Node) -> bool:
    return not await node.rows(library.outbox_held)


async def test_a_run_survives_the_stop_of_its_node_at_any_step(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    """Stopped properly between all commits: what was sent without an answer is sent again."""
    for participant in participants.values():
        participant.is_away = True
    started: Any = None
    for name in NAMES:
        async with running(engine, [BOOKING], participants) as node:
            started = started or await node.engine.start(BOOKING, Trip("one"))
            participants[name].is_away = False
            await until(partial(getattr, participants[name], "seen"), what=name)
    async with running(engine, [BOOKING], participants) as node:
        await node.until_status(started.instance_id, Status.COMPLETED)
