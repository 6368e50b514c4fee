"""The removal of runs that ended long ago, and of what belongs to them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection, event, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from orchestrator import tables
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Cancel, Replied
from orchestrator.retention import pace
from orchestrator.retention.lease import LostLease, RetentionLease
from orchestrator.retention.pace import Pace
from orchestrator.retention.plan import plan
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import RetentionLimits
from orchestrator.retention.store import RetentionStore
from orchestrator.store import queries
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.tables import outbox_dead
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.retained import Retained, at_once
from tests.support.orchestrator.stepping import go_on
from tests.support.outbox.letters import a_letter, an_id, of_saga

ROOM = "hotels.reserve-room.v1"
FULL = Reply(Outcome.REFUSED, code="full", reason="nothing is left")
SHORT = Policy.parse("2d")
"""Shorter than the time for which ids are remembered."""


async def test_a_run_goes_with_its_history_once_its_end_is_old_enough(plain: Retained) -> None:
    await plain.run()
    await plain.days(29.9)
    assert (await plain.forget()).removed.total() == 0
    await plain.days(0.2)
    done = await plain.forget()
    assert (done.removed["runs"], done.removed["lines"] > 0) == (1, True)
    counts = await plain.counts()
    assert (counts["saga"], counts["saga_history"], counts["saga_alias"]) == (0, 0, 0)


async def stuck_run(world: Retained) -> str:
    """A run that stands STUCK until a person helps it."""
    world.participants["trains"].values["trains.reserve-seat.v1"] = {"number": []}
    id = await world.run("stuck")
    assert (await world.asking.run(id)).status == Status.STUCK
    return id


async def test_a_run_that_has_not_ended_stays_however_old_it_is(plain: Retained) -> None:
    stuck = await stuck_run(plain)
    await plain.days(4000)
    assert (await plain.forget()).removed.total() == 0
    assert (await plain.asking.run(stuck)).status == Status.STUCK


async def test_each_status_has_an_age_of_its_own(plain: Retained) -> None:
    completed = await plain.run("t1")
    plain.participants["hotels"].replies[ROOM] = FULL
    compensated = await plain.run("t2")
    assert (await plain.asking.run(compensated)).status == Status.COMPENSATED
    await plain.days(10)
    policy = Policy.parse("COMPENSATED=7d")
    assert (await plain.forget(policy)).removed["runs"] == 1
    assert await plain.asking.run(compensated) is None
    assert await plain.asking.run(completed) is not None
    await plain.days(100)
    assert (await plain.forget(Policy.parse("book-trip:*=forever"))).removed["runs"] == 0


async def test_many_runs_go_in_small_steps(
    plain: Retained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        await plain.run(f"t{number}")
    await plain.days(31)
    retention, rests = plain.retention(), list[float]()
    retention._means.pace = Pace(size=5)
    monkeypatch.setattr(pace, "LARGEST", 5)

    async def rest(seconds: float) -> None:
        rests.append(len(await plain.asking.rows(tables.saga)))

    done = await retention.whole_round(rest)
    assert done is not None
    assert done.removed["runs"] == 12
    assert rests[:3] == [12, 7, 2]


async def test_a_run_with_a_signal_that_was_not_applied_yet_stays(plain: Retained) -> None:
    id = await plain.run()
    plain.clock.advance(timedelta(days=31).total_seconds())
    await plain.asking.signal(id, Cancel("ada", "too late"))
    assert (await plain.forget()).removed["runs"] == 0
    await go_on(plain.node)
    async with plain.engine.begin() as connection:
        await connection.execute(tables.saga_signal.delete())
    assert (await plain.forget()).removed["runs"] == 1


# Never a second run


async def test_the_start_of_a_removed_run_begins_none_and_is_told_why(plain: Retained) -> None:
    id = await plain.run()
    await plain.days(31)
    await plain.forget()
    again = plain.ids()
    await plain.run(id=id, message=again)
    assert await plain.asking.run(id) is None
    news = plain.told(id)[-1]
    assert (news.status, news.code) == ("REFUSED", "id-forgotten")
    assert id in (news.reason or "")
    assert await plain.asking.rows(tables.saga_signal) == []


async def test_input_that_does_not_fit_is_no_way_around_it(plain: Retained) -> None:
    id = await plain.run()
    await plain.days(31)
    await plain.forget()
    await plain.asking.start(id, {"journey": "t1"}, message_id=plain.ids())
    await go_on(plain.node)
    assert plain.told(id)[-1].code == "id-forgotten"
    assert await plain.asking.rows(tables.saga_alias) == []


async def test_an_id_that_is_remembered_by_itself_is_answered_as_before(plain: Retained) -> None:
    """The tombstone knows how the run ended, and what was asked for."""
    id = await plain.run()
    await plain.days(3)
    assert (await plain.forget(SHORT)).removed["runs"] == 1
    await plain.run(id=id)
    assert await plain.asking.run(id) is None
    assert [it.status for it in plain.told(id)] == ["COMPLETED", "COMPLETED"]
    await plain.run("another", id=id)
    assert (plain.told(id)[-1].status, plain.told(id)[-1].code) == ("REFUSED", "id-reused")


async def test_an_alias_of_a_removed_run_is_remembered_too(plain: Retained) -> None:
    plain.participants["hotels"].replies[ROOM] = Reply(Outcome.ONGOING)
    active = await plain.run()
    alias = await plain.run()
    plain.participants["hotels"].replies.clear()
    await plain.a_minute()
    assert (await plain.asking.run(active)).status == Status.COMPLETED
    await plain.days(3)
    done = await plain.forget(SHORT)
    assert (done.removed["runs"], done.removed["aliases"]) == (1, 1)
    await plain.run(id=alias)
    assert await plain.asking.rows(tables.saga) == []
    assert [it.status for it in plain.told(alias)] == ["COMPLETED", "COMPLETED"]
    await plain.days(30)
    assert (await plain.forget(SHORT)).removed["tombstones"] == 2
    assert await plain.asking.rows(tables.saga_alias) == []
    await plain.run(id=alias)
    assert await plain.asking.rows(tables.saga) == []
    assert plain.told(alias)[-1].code == "id-forgotten"


async def test_an_id_from_the_future_does_not_move_the_watermark(plain: Retained) -> None:
    """A service whose clock is years ahead must not have the starts of all others refused."""
    future = compose(1_993_456_000_000, 7)
    await plain.run(id=future)
    await plain.days(31)
    assert (await plain.forget()).removed["runs"] == 1
    under_way = plain.ids()
    await plain.days(1)
    await plain.run("t2", id=under_way)
    assert (await plain.asking.run(under_way)).status == Status.COMPLETED
    await plain.run("t1", id=future)
    assert await plain.asking.run(future) is None


async def test_an_old_id_that_was_never_here_begins_where_nothing_was_removed(
    plain: Retained,
) -> None:
    """Only what was removed raises the watermark, not what might have been."""
    id = plain.ids()
    await plain.days(400)
    await plain.forget()
    await plain.run(id=id)
    assert (await plain.asking.run(id)).status == Status.COMPLETED


async def test_a_refused_start_is_forgotten_and_its_id_begins_nothing(plain: Retained) -> None:
    id = plain.ids()
    await plain.asking.start(id, {"journey": "t1"}, message_id=plain.ids())
    await go_on(plain.node)
    await plain.days(29)
    assert (await plain.forget()).removed["refused"] == 0
    await plain.days(2)
    assert (await plain.forget()).removed["refused"] == 1
    await plain.run(id=id)
    assert await plain.asking.rows(tables.saga) == []


# What comes late


async def test_an_answer_for_a_removed_run_is_counted_and_changes_nothing(
    plain: Retained, caplog: pytest.LogCaptureFixture
) -> None:
    id = await plain.run()
    await plain.days(31)
    await plain.forget()
    command = plain.ids()
    await plain.asking.signal(id, Replied(command, Reply(Outcome.DONE), "hotels"))  # type: ignore[arg-type]  # as the handler of answers stores it
    await go_on(plain.node)
    assert plain.node.committer.stats.late_answers == 1
    assert command in caplog.text
    assert "removed" in caplog.text
    assert await plain.asking.rows(tables.saga_signal) == []
    assert await plain.asking.rows(tables.saga) == []


async def test_the_signal_of_an_operator_for_a_removed_run_is_answered(plain: Retained) -> None:
    id = await plain.run()
    await plain.days(31)
    await plain.forget()
    await plain.asking.signal(id, Cancel("ada", "enough"))
    await go_on(plain.node)
    (signal,) = await plain.asking.rows(tables.saga_signal)
    assert "UnknownRun" in signal.answer


# What is beside runs


async def test_idempotency_keys_go_by_their_own_age_after_their_runs(plain: Retained) -> None:
    ended, later = await plain.run("t1"), plain.ids()
    keys = [
        {"name": "book-trip", "key": f"k{number}", "fingerprint": b"0" * 32, "saga_id": id}
        for number, id in enumerate((ended, later))
    ]
    async with plain.engine.begin() as connection:
        await connection.execute(insert(tables.saga_start_key), keys)
    await plain.days(31)
    policy = Policy.parse("COMPLETED=60d")
    assert (await plain.forget(policy)).removed["keys"] == 1
    assert [it.saga_id for it in await plain.asking.rows(tables.saga_start_key)] == [ended]
    await plain.days(31)
    done = await plain.forget(policy)
    assert (done.removed["runs"], done.removed["keys"]) == (1, 1)


async def test_the_key_of_a_start_that_was_joined_to_a_run_stays_while_the_run_is_there(
    plain: Retained,
) -> None:
    """As a start that was scheduled becomes an alias, when it is due."""
    run = await stuck_run(plain)
    joined = plain.ids()
    key = {"name": "book-trip", "key": "k", "fingerprint": b"0" * 32, "saga_id": joined}
    alias = {"id": joined, "saga_id": run, "made_at": plain.clock.now()}
    async with plain.engine.begin() as connection:
        await connection.execute(insert(tables.saga_start_key), [key])
        await connection.execute(insert(tables.saga_alias), [alias])
    await plain.days(31)
    assert {it.what: it.count for it in await plan(opened(plain.engine), Policy(), plain.clock)}[
        "keys"
    ] == 0
    assert (await plain.forget()).removed["keys"] == 0


async def test_dead_letters_go_but_not_those_of_a_run_that_lives(plain: Retained) -> None:
    alive = await stuck_run(plain)
    letters = [a_letter(1), of_saga(2) | {"id": an_id(2)}, of_saga(3, alive) | {"id": an_id(3)}]
    async with plain.engine.begin() as connection:
        await connection.execute(
            insert(outbox_dead), [it | {"died_at": plain.clock.now()} for it in letters]
        )
    await plain.days(91)
    await plain.forget()
    async with plain.engine.connect() as connection:
        assert list(await connection.scalars(select(outbox_dead.c.id))) == [an_id(3)]


# The lease


async def test_one_process_at_a_time_removes_what_is_old(plain: Retained) -> None:
    await plain.run()
    await plain.days(31)
    first, second = plain.retention(), plain.retention()
    assert await first.step() == 0
    assert await second.whole_round(at_once) is None
    plain.clock.advance(RetentionLimits.lease + 1)
    done = await second.whole_round(at_once)
    assert done is not None
    assert done.removed["runs"] == 1
    # The first one wakes up, and is fenced out.
    assert await first.step() == RetentionLimits.every


async def test_a_step_under_a_lost_lease_is_rolled_back(plain: Retained) -> None:
    id = await plain.run()
    store = RetentionLease(
        tables.PLAIN, postgres=plain.engine.dialect.name == "postgresql", now=plain.clock.now
    )
    async with plain.engine.begin() as connection:
        fence = await store.claim(connection, "one", timedelta(seconds=5))
    assert fence is not None
    plain.clock.advance(6)
    async with plain.engine.begin() as connection:
        assert await store.claim(connection, "two", timedelta(seconds=5)) is not None
    async with plain.engine.begin() as connection:
        with pytest.raises(LostLease):
            await store.fence(connection, fence)
    assert await plain.asking.run(id) is not None


async def test_a_step_that_fails_is_told_and_tried_again_later(
    plain: Retained, caplog: pytest.LogCaptureFixture
) -> None:
    await plain.run()
    await plain.days(31)
    retention = plain.retention()
    async with plain.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE saga_history RENAME TO elsewhere"))
    while not retention.tally.failures:
        await retention.step()
    assert "trying later" in caplog.text
    async with plain.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO saga_history"))
    for _ in range(20):
        await retention.step()
    assert retention.tally.removed["runs"] == 1


# Dry run


async def test_the_plan_says_what_a_round_then_removes(plain: Retained) -> None:
    assert SHORT is not None
    await plain.run("t1")
    plain.participants["hotels"].replies[ROOM] = FULL
    await plain.run("t2")
    ended_at = plain.clock.now()
    await plain.days(3)
    before = await plain.counts()
    found = await plan(opened(plain.engine), SHORT, plain.clock)
    counts = {(it.what, it.status): it.count for it in found}
    assert counts["book-trip", "COMPLETED"] == counts["book-trip", "COMPENSATED"] == 1
    assert sum(counts.values()) == 2
    oldest = next(it.oldest for it in found if it.status == "COMPLETED")
    assert oldest is not None
    assert abs(oldest - ended_at) < timedelta(minutes=1)
    assert await plain.counts() == before
    assert (await plain.forget(SHORT)).removed["runs"] == 2


async def test_what_is_known_of_a_run_without_an_archive_is_how_it_ended(plain: Retained) -> None:
    id = await plain.run()
    await plain.days(3)
    await plain.forget(SHORT)
    found = await queries.find(opened(plain.engine), id)
    assert isinstance(found, queries.Tombstone)
    assert found.ended is Status.COMPLETED
    assert await plain.archived.find(id, found) is None


async def test_the_end_of_a_round_and_the_oldest_end_are_noted(plain: Retained) -> None:
    await plain.run("t1")
    await plain.days(20)
    ended_at = plain.clock.now()
    await plain.run("t2")
    await plain.days(11)
    await plain.forget()
    (row,) = await plain.asking.rows(tables.saga_retention)
    assert row.round_at == plain.clock.now()
    assert abs(row.oldest_at - ended_at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("more", "order", "index"),
    [
        ("", "ended_at", "saga_ended"),
        (
            "AND history_removed_at IS NULL ",
            "history_removed_at, ended_at",
            "saga_with_history",
        ),
    ],
    ids=["runs", "histories"],
)
async def test_statements_find_what_is_old_by_an_index(
    plain: Retained, more: str, order: str, index: str
) -> None:
    """However many runs there are that stay."""
    explain = "EXPLAIN QUERY PLAN " if plain.engine.dialect.name == "sqlite" else "EXPLAIN "
    async with plain.engine.connect() as connection:
        if plain.engine.dialect.name == "postgresql":
            await connection.execute(text("SET enable_seqscan = off"))
        statement = (
            "SELECT id FROM saga WHERE status = 'COMPLETED' AND name = 'x' "
            f"AND ended_at IS NOT NULL AND ended_at < '2030-01-01' {more}"
            f"ORDER BY {order} LIMIT 10"
        )
        found = "\n".join(map(str, await connection.execute(text(explain + statement))))
    assert index in found
    assert "Sort" not in found
    assert "TEMP B-TREE" not in found


async def test_a_run_that_takes_a_step_meanwhile_stays(plain: Retained) -> None:
    """It goes with the next round, as it stands then."""
    id = await plain.run()
    await plain.days(31)
    store = RetentionStore(
        tables.PLAIN, postgres=plain.engine.dialect.name == "postgresql", now=plain.clock.now
    )
    revision = (await plain.asking.run(id)).revision
    async with plain.engine.begin() as connection:
        await connection.execute(
            update(tables.saga).where(tables.saga.c.id == id).values(revision=revision + 1)
        )
        gone = await store.remove_runs(
            connection, {id: revision}, remember_from="0", below=None, archive_id=None
        )
    assert gone.runs == frozenset()
    assert await plain.asking.run(id) is not None


async def test_only_what_was_committed_counts_as_removed(plain: Retained) -> None:
    await plain.run()
    async with plain.engine.begin() as connection:
        await connection.execute(insert(outbox_dead), [a_letter(1)])
    await plain.days(400)
    retention, engine = plain.retention(), plain.engine.sync_engine

    def fail(connection: Connection) -> None:
        if connection.scalar(select(func.count()).select_from(tables.saga)) == 0:
            raise OperationalError("COMMIT", None, Exception("the disk is full"))

    event.listen(engine, "commit", fail)
    while not retention.tally.failures:
        await retention.step()
    event.remove(engine, "commit", fail)
    assert len(await plain.asking.rows(tables.saga)) == 1, "it was rolled back"
    assert retention.tally.removed.total() == 0
    await retention.whole_round(at_once)
    removed = retention.tally.removed
    assert (removed["runs"], removed["letters"]) == (1, 1)
