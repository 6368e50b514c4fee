"""What if the process dies here? At each point of a round: nothing is lost, and nothing is doubled.

The points come from the source, so that a new one is tried by itself.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import tables
from orchestrator.retention.archive.archive import Archive, Manifest
from orchestrator.retention.files import FileState
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import RetentionLimits
from orchestrator.store import queries
from outbox.testing import crash_at, crash_points
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.retained import Retained, at_once

POINTS = sorted(it for it in crash_points(orchestrator) if it.startswith("retention: "))
HITS = {"retention: file written, before its name": (1, 2)}
"""A file and its manifest are written alike."""
CRASHES = [(point, hit) for point in POINTS for hit in HITS.get(point, (1,))]


def manifests(archive: Archive) -> list[dict[str, Any]]:
    found = Path(archive.place).glob("runs/**/*.manifest.json")
    return [json.loads(it.read_bytes()) for it in found]


async def everywhere(world: Retained, id: str) -> tuple[bool, bool]:
    """Whether a run is in the tables, and whether it is found in the archive."""
    if await world.asking.run(id) is not None:
        return True, False
    tombstone = await queries.find(opened(world.engine), id)
    assert tombstone is None or isinstance(tombstone, queries.Tombstone)
    found = await world.archived.find(id, tombstone)
    return False, found is not None


@pytest.mark.parametrize(("point", "hit"), CRASHES)
async def test_a_process_that_dies_in_a_round_loses_and_doubles_nothing(
    kept: Retained, archive: Archive, point: str, hit: int
) -> None:
    ids = [await kept.run(f"t{number}") for number in range(3)]
    await kept.days(3)
    policy = Policy.parse("2d")
    with crash_at(point, hit):
        await kept.retention(policy).whole_round(at_once)
    for id in ids:
        assert sum(await everywhere(kept, id)) == 1, "neither lost nor doubled"
    # Another process takes over, once the lease of the dead one is over.
    assert await kept.retention(policy).whole_round(at_once) is None
    kept.clock.advance(RetentionLimits.lease + 1)
    await kept.forget(policy)
    for id in ids:
        assert await everywhere(kept, id) == (False, True)
        await kept.run(id=id)
        assert await kept.asking.run(id) is None, "there is no second run"
    (row,) = await kept.asking.rows(tables.saga_archive)
    assert (row.state, row.items) == (FileState.KEPT.value, 3)
    (manifest,) = manifests(archive)
    assert set(ids) == set(manifest["items"])
    left = [it.name for it in Path(archive.place).rglob("*") if it.is_file()]
    assert len(left) == 2, f"one file and its manifest: {left}"


def test_there_are_points_at_each_side_of_each_write() -> None:
    assert len(POINTS) == 6


async def test_a_run_that_took_a_step_after_it_was_archived_is_archived_anew(
    kept: Retained, archive: Archive
) -> None:
    """The file has it as it was; what is in the tables counts until it goes itself."""
    one, other = await kept.run("t1"), await kept.run("t2")
    await kept.days(31)
    with crash_at("retention: archived, before removal"):
        await kept.retention().whole_round(at_once)
    async with kept.engine.begin() as connection:
        saga = tables.saga
        await connection.execute(
            saga.update().where(saga.c.id == one).values(revision=saga.c.revision + 1, key="new")
        )
    kept.clock.advance(RetentionLimits.lease + 1)
    done = await kept.forget()
    assert done.archived["runs"] == 2
    assert len(manifests(archive)) == 2
    found = await kept.archived.find(one)
    assert found is not None
    assert found.key == "new"
    assert await kept.archived.find(other) is not None


@pytest.mark.parametrize("is_written", [True, False], ids=["whole", "not there yet"])
async def test_a_process_that_lost_its_lease_neither_takes_the_file_away_nor_leaves_a_second_one(
    kept: Retained, archive: Archive, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """It sleeps while it writes. Another process uses the file where it is whole, else makes one of
    its own."""
    id = await kept.run()
    await kept.days(31)
    write, loop = archive.write, asyncio.get_running_loop()

    async def take_over() -> None:
        monkeypatch.undo()
        kept.clock.advance(RetentionLimits.lease + 1)
        await kept.forget()

    def write_and_sleep(*of: Any) -> Manifest:
        early = write(*of) if is_written else None
        asyncio.run_coroutine_threadsafe(take_over(), loop).result(60)
        return early or write(*of)

    monkeypatch.setattr(archive, "write", write_and_sleep)
    assert await kept.retention().whole_round(at_once) is None
    assert await everywhere(kept, id) == (False, True)
    assert len(manifests(archive)) == 1
