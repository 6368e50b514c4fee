"""Histories that are removed before their runs, and files that another policy left behind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

import orchestrator
from orchestrator import tables
from orchestrator.machine.signals import Replied, Terminate
from orchestrator.retention.archive.archive import Archive
from orchestrator.retention.files import FileState
from orchestrator.retention.histories import HistoryStore
from orchestrator.retention.letters import LetterStore, Place, place_of
from orchestrator.retention.lookup import RemovedHistory
from orchestrator.retention.plan import plan
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import RetentionLimits
from orchestrator.store.records import standing_of
from outbox.replies import Outcome, Reply
from outbox.tables import outbox_dead
from outbox.testing import crash_at, crash_points
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.retained import Retained, at_once
from tests.support.orchestrator.stepping import go_on
from tests.support.outbox.letters import a_letter

WEEK = Policy.parse("history=7d")
"""Runs go after 30 days."""
SEAT = "trains.reserve-seat.v1"
POINTS = sorted(it for it in crash_points(orchestrator) if it.startswith("retention: "))


async def lines_of(world: Retained, id: str) -> list[int]:
    rows = await world.asking.rows(tables.saga_history)
    return sorted(it.number for it in rows if it.saga_id == id)


def archived(archive: Archive, kind: str) -> dict[str, Any]:
    """What is in the files of that kind, by run."""
    found: dict[str, Any] = {}
    for file in Path(archive.place).glob(f"{kind}/*/*/*/*.gz"):
        for line in gzip.decompress(file.read_bytes()).splitlines():
            told = json.loads(line)
            assert told["run"]["id"] not in found, "it is in two files"
            found[told["run"]["id"]] = told
    return found


async def test_a_history_goes_at_its_age_and_the_run_later(plain: Retained) -> None:
    id = await plain.run()
    lines = await lines_of(plain, id)
    await plain.days(6.9)
    assert (await plain.forget(WEEK)).removed.total() == 0
    assert await plain.archived.removed_history(await plain.asking.run(id)) is None
    await plain.days(0.2)
    done = await plain.forget(WEEK)
    assert +done.removed == {"histories": 1, "lines": len(lines)}
    run = await plain.asking.run(id)
    assert (run.history_removed_at, run.entries) == (plain.clock.now(), len(lines))
    assert await plain.archived.removed_history(run) == RemovedHistory(plain.clock.now())
    assert (await plain.forget(WEEK)).removed.total() == 0, "nothing is removed twice"
    await plain.days(23)
    assert +(await plain.forget(WEEK)).removed == {"runs": 1}


async def test_without_an_age_of_its_own_a_history_stays_as_long_as_its_run(
    plain: Retained,
) -> None:
    id = await plain.run()
    await plain.days(400)
    for policy in ("COMPLETED=forever", "COMPLETED=forever,history=forever"):
        assert (await plain.forget(Policy.parse(policy))).removed.total() == 0
    assert await lines_of(plain, id)


async def test_a_run_that_goes_sooner_goes_with_its_history(plain: Retained) -> None:
    id = await plain.run()
    await plain.days(8)
    policy = Policy.parse("COMPLETED=7d,history=7d")
    done = await plain.forget(policy)
    assert (done.removed["runs"], done.removed["histories"]) == (1, 0)
    assert await lines_of(plain, id) == []


async def test_the_age_of_a_history_counts_from_the_end_of_its_run(plain: Retained) -> None:
    plain.participants["trains"].values[SEAT] = {"number": []}
    id = await plain.run("stuck")
    await plain.days(100)
    assert (await plain.forget(WEEK)).removed.total() == 0
    await terminated(plain, id)
    assert (await plain.forget(WEEK)).removed.total() == 0
    assert await lines_of(plain, id)
    await plain.days(8)
    assert (await plain.forget(WEEK)).removed["histories"] == 1


async def test_a_history_is_archived_in_a_file_of_its_own_kind(
    kept: Retained, archive: Archive
) -> None:
    id = await kept.run()
    numbers = await lines_of(kept, id)
    await kept.days(8)
    done = await kept.forget(WEEK)
    assert +done.archived == {"histories": 1}
    told = archived(archive, "histories")[id]
    assert told["kind"] == "history"
    assert [it["number"] for it in told["history"]] == numbers
    assert told["run"]["name"] == "book-trip"
    (file,) = await kept.asking.rows(tables.saga_archive)
    run = await kept.asking.run(id)
    there = RemovedHistory(run.history_removed_at, archive.place, file.path)
    assert await kept.archived.removed_history(run) == there
    assert (Path(archive.place) / f"{file.path}.manifest.json").is_file()
    # The run itself goes later, without them, and says so.
    await kept.days(23)
    assert +(await kept.forget(WEEK)).archived == {"runs": 1}
    assert archived(archive, "runs")[id]["history"] == []
    found = await kept.archived.find(id)
    assert found is not None
    assert (found.history, found.entries) == ((), len(numbers))
    assert await kept.archived.removed_history(found) == there


async def terminated(world: Retained, id: str) -> None:
    """End the run as a person does."""
    await world.asking.signal(id, Terminate("ada", "enough"))
    await go_on(world.node)
    async with world.engine.begin() as connection:
        # The answer to the person; nothing asks for it here.
        await connection.execute(tables.saga_signal.delete())


async def ended_with_a_seat_that_may_come_late(world: Retained) -> tuple[str, str]:
    """A run that a person ended while a seat was asked for, and the command that asked."""
    world.participants["trains"].replies[SEAT] = Reply(Outcome.ONGOING)
    id = await world.run()
    await terminated(world, id)
    (seat,) = standing_of((await world.asking.run(id)).document).steps["reserve seat"].action_ids
    return id, seat


async def seat_is_told(world: Retained, id: str, seat: str) -> None:
    answer: Any = Replied(seat, Reply(Outcome.DONE), "trains")
    await world.asking.signal(id, answer)
    await go_on(world.node)


async def test_what_comes_after_a_history_was_removed_has_the_next_number(
    kept: Retained, archive: Archive
) -> None:
    """No number is used twice, and what came late is there until the run goes."""
    id, seat = await ended_with_a_seat_that_may_come_late(kept)
    before = await lines_of(kept, id)
    await kept.days(8)
    assert (await kept.forget(WEEK)).removed["histories"] == 1
    await seat_is_told(kept, id, seat)
    assert await lines_of(kept, id) == [before[-1] + 1]
    run = await kept.asking.run(id)
    assert (run.entries, run.history_removed_at is None) == (before[-1] + 1, False)
    assert (await kept.forget(WEEK)).removed.total() == 0
    assert [it["number"] for it in archived(archive, "histories")[id]["history"]] == before
    await kept.days(23)
    await kept.forget(WEEK)
    late = archived(archive, "runs")[id]["history"]
    assert [it["number"] for it in late] == [before[-1] + 1]


async def test_a_run_that_takes_a_step_meanwhile_keeps_its_history(plain: Retained) -> None:
    """The lines were read before it: the next round reads them anew."""
    id = await plain.run()
    lines = await lines_of(plain, id)
    postgres = plain.engine.dialect.name == "postgresql"
    store = HistoryStore(tables.PLAIN, postgres=postgres, now=plain.clock.now)
    revision = (await plain.asking.run(id)).revision
    async with plain.engine.begin() as connection:
        saga = tables.saga
        await connection.execute(
            update(saga).where(saga.c.id == id).values(revision=saga.c.revision + 1)
        )
        gone = await store.remove_histories(connection, {id: revision}, None)
    assert (gone.runs, gone.lines) == (frozenset(), 0)
    assert await lines_of(plain, id) == lines


async def test_the_plan_counts_the_histories_of_the_runs_that_stay(plain: Retained) -> None:
    assert WEEK is not None
    await plain.run("t1")
    await plain.days(25)
    await plain.run("t2")
    ended_at = plain.clock.now()
    await plain.days(8)
    counts = {it.what: it for it in await plan(opened(plain.engine), WEEK, plain.clock)}
    assert (counts["history"].count, counts["history"].age) == (1, WEEK.history)
    assert counts["history"].oldest is not None
    assert counts["history"].oldest >= ended_at
    done = await plain.forget(WEEK)
    assert (done.removed["runs"], done.removed["histories"]) == (1, 1)
    counts = {it.what: it for it in await plan(opened(plain.engine), WEEK, plain.clock)}
    assert counts["history"].count == 0


@pytest.mark.parametrize("point", POINTS)
async def test_a_process_that_dies_loses_and_doubles_no_line(
    kept: Retained, archive: Archive, point: str
) -> None:
    lines = {id: await lines_of(kept, id) for id in [await kept.run(f"t{it}") for it in range(2)]}
    await kept.days(8)
    with crash_at(point):
        await kept.retention(WEEK).whole_round(at_once)
    (row,) = await kept.asking.rows(tables.saga_archive)
    is_removed = row.state == FileState.KEPT.value
    for id, numbers in lines.items():
        assert await lines_of(kept, id) == ([] if is_removed else numbers)
        assert (await kept.asking.run(id)).history_removed_at is not None or not is_removed
    kept.clock.advance(RetentionLimits.lease + 1)
    await kept.forget(WEEK)
    told = archived(archive, "histories")
    for id, numbers in lines.items():
        assert await lines_of(kept, id) == []
        assert [it["number"] for it in told[id]["history"]] == numbers
    (row,) = await kept.asking.rows(tables.saga_archive)
    assert (row.state, row.items) == (FileState.KEPT.value, 2)
    left = [it.name for it in Path(archive.place).rglob("*") if it.is_file()]
    assert len(left) == 2, f"one file and its manifest: {left}"


# A policy that became another one while a file was unfinished


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("runs", "on", "COMPLETED=forever"),
        ("runs", "on", "book-trip:COMPLETED=60d"),
        ("histories", "history=7d,COMPLETED=forever", "COMPLETED=forever"),
        ("histories", "history=7d,COMPLETED=forever", "COMPLETED=forever,history=60d"),
        ("letters", "COMPLETED=forever,dead-letters=7d", "COMPLETED=forever,dead-letters=forever"),
        ("letters", "COMPLETED=forever,dead-letters=7d", "COMPLETED=forever,dead-letters=60d"),
    ],
)
@pytest.mark.databases("sqlite")
async def test_what_the_policy_keeps_by_now_stays_though_a_whole_file_has_it(
    kept: Retained, archive: Archive, kind: str, before: str, after: str
) -> None:
    id = await kept.run()
    async with kept.engine.begin() as connection:
        letter = {**a_letter(1), "died_at": kept.clock.now()}
        await connection.execute(insert(outbox_dead), [letter])
    lines = await lines_of(kept, id)
    await kept.days(31)
    with crash_at("retention: archived, before removal"):
        await kept.retention(Policy.parse(before)).whole_round(at_once)
    assert list(Path(archive.place).glob(f"{kind}/*/*/*/*.manifest.json"))
    kept.clock.advance(RetentionLimits.lease + 1)
    done = await kept.forget(Policy.parse(after))
    assert done.removed.total() == 0
    assert await kept.asking.run(id) is not None
    assert await lines_of(kept, id) == lines
    assert len(await kept.asking.rows(outbox_dead)) == 1
    assert [it for it in Path(archive.place).rglob("*") if it.is_file()] == []
    assert await kept.asking.rows(tables.saga_archive) == []


async def test_what_is_still_old_enough_goes_when_the_rest_of_its_file_stays(
    kept: Retained, archive: Archive
) -> None:
    early = await kept.run("early")
    await kept.days(5)
    late = await kept.run("late")
    await kept.days(31)
    with crash_at("retention: archived, before removal"):
        await kept.retention().whole_round(at_once)
    kept.clock.advance(RetentionLimits.lease + 1)
    done = await kept.forget(Policy.parse("34d"))
    assert done.archived["runs"] == 1
    assert list(archived(archive, "runs")) == [early]
    assert await kept.asking.run(late) is not None


# How much is read of dead letters at once


async def test_a_page_of_dead_letters_has_a_bound_in_bytes(
    kept: Retained, archive: Archive
) -> None:
    died_at = kept.clock.now()
    letters = [
        a_letter(number, destination=where, payload='"' + "x" * 1000 + '"', died_at=died_at)
        for number in range(3)
        for where in ("articles", "comments")
    ]
    async with kept.engine.begin() as connection:
        await connection.execute(insert(outbox_dead), letters)
    await kept.days(91)
    store, before = LetterStore(tables.PLAIN), kept.clock.now()
    for most_bytes, most in ((3000, 2), (1, 1)):
        found: list[tuple[str, str]] = []
        after: Place | None = None
        async with kept.engine.connect() as connection:
            while page := await store.old_letters(connection, before, after, 500, most_bytes):
                assert len(page) <= most
                found += [(it.id, it.destination) for it in page]
                after = place_of(page[-1])
        assert found == [(it["id"], it["destination"]) for it in letters]
    limits = RetentionLimits(file_bytes=3000)
    done = await kept.retention(limits=limits).whole_round(at_once)
    assert done is not None
    assert done.archived["letters"] == len(letters)
    assert len(list(Path(archive.place).glob("letters/*/*/*/*.manifest.json"))) == 3
