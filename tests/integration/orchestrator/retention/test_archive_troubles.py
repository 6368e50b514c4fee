"""Files of the archive that are torn, lost, or open to others, and how far the trouble goes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator import tables
from orchestrator.errors import ArchiveUnavailable
from orchestrator.retention.archive import folder as folders
from orchestrator.retention.archive.archive import Archive, Manifest, archive_at
from orchestrator.retention.archive.folder import Folder
from orchestrator.retention.archive.formats import JsonLines
from orchestrator.retention.archive.lines import Item
from orchestrator.retention.policy import Policy
from orchestrator.retention.rounds.means import RetentionLimits
from outbox.crashpoints import Crash
from outbox.replies import Outcome, Reply
from outbox.testing import crash_at
from tests.support.orchestrator.retained import Retained, at_once

ROOM = "hotels.reserve-room.v1"
SHORT = Policy.parse("2d")


def manifests(archive: Archive) -> list[Path]:
    return sorted(Path(archive.place).glob("runs/**/*.manifest.json"))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_no_other_user_of_the_machine_reads_what_is_archived(tmp_path: Path) -> None:
    """It has the states of runs, as the database has."""
    with umask(0):
        Folder(tmp_path / "archive").put("runs/2030/one", b"secret")
    made = [tmp_path / "archive", *(tmp_path / "archive").rglob("*")]
    assert len(made) == 4
    for it in made:
        assert it.stat().st_mode & 0o027 == 0, it


def test_the_folders_that_a_process_made_before_it_died_are_flushed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the machine could lose them with the files in them, of which the runs were removed."""
    root = tmp_path / "archive"
    flushed: list[Path] = []
    monkeypatch.setattr(folders, "_flush", flushed.append)
    with crash_at("retention: file written, before its name"), pytest.raises(Crash):
        Folder(root).put("runs/2030/01/one", b"lost")
    assert flushed == []
    Folder(root).put("runs/2030/01/two", b"kept")
    below = [root / "runs/2030/01", root / "runs/2030", root / "runs", root]
    assert flushed == below


@pytest.mark.databases("sqlite")
async def test_a_file_that_a_newer_version_left_is_left_to_it(
    kept: Retained, archive: Archive
) -> None:
    """To discard it here might lose what that version has removed by other rules."""
    await kept.run()
    await kept.days(31)
    with crash_at("retention: archived, before removal"):
        await kept.retention().whole_round(at_once)
    file = tables.saga_archive
    async with kept.engine.begin() as connection:
        await connection.execute(file.update().values(kind="notes"))
    kept.clock.advance(RetentionLimits.lease + 1)
    with pytest.raises(ArchiveUnavailable, match=r"a newer version left the file runs/.*'notes'"):
        await kept.forget()
    assert len(manifests(archive)) == 1
    assert (await kept.counts())["saga"] == 1


@pytest.mark.parametrize("torn", [b"", b"{", b"null", b"[1]", b'{"format": 1}', b"\xff"])
@pytest.mark.databases("sqlite")
async def test_a_torn_manifest_of_an_unfinished_file_counts_as_none(
    kept: Retained, archive: Archive, torn: bytes
) -> None:
    """Else what one machine lost as it died would stop all removal."""
    id = await kept.run()
    await kept.days(31)
    with crash_at("retention: archived, before removal"):
        await kept.retention().whole_round(at_once)
    (manifest,) = manifests(archive)
    manifest.write_bytes(torn)
    kept.clock.advance(RetentionLimits.lease + 1)
    done = await kept.forget()
    assert done.archived["runs"] == 1
    assert len(manifests(archive)) == 1
    found = await kept.archived.find(id)
    assert found is not None


@pytest.mark.parametrize("torn", [b"{", None], ids=["torn", "missing"])
async def test_a_run_is_found_though_another_file_that_may_have_it_cannot_be_read(
    kept: Retained, archive: Archive, torn: bytes | None
) -> None:
    late, early = await two_files_over_each_other(kept)
    first, _ = sorted(await kept.asking.rows(tables.saga_archive), key=lambda it: it.made_at)
    assert first.first_id < late < first.last_id
    (broken,) = Path(archive.place).glob(f"{first.path}.manifest.json")
    broken.unlink() if torn is None else broken.write_bytes(torn)
    # Another process, with an empty memory.
    kept.archive = archive_at(archive.place)
    found = await kept.archived.find(late)
    assert found is not None
    with pytest.raises(ArchiveUnavailable, match=first.path):
        await kept.archived.find(early)


async def two_files_over_each_other(kept: Retained) -> tuple[str, str]:
    """A run of each of two files: the ids of the one that is archived later lie around those of the
    other, and between them."""
    hotels = kept.participants["hotels"].replies
    ids: dict[str, str] = {}
    for trip in ("late 1", "early 1", "late 2", "early 2"):
        hotels.pop(ROOM, None)
        if trip.startswith("late"):
            hotels[ROOM] = Reply(Outcome.ONGOING)
        ids[trip] = await kept.run(trip)
    hotels.clear()
    await kept.a_minute()
    kept.clock.advance(timedelta(days=2).total_seconds() - 30)
    assert (await kept.forget(SHORT)).archived["runs"] == 2
    for _ in range(2):
        await kept.days(31)
        await kept.forget(SHORT)
    assert await kept.asking.rows(tables.saga_alias) == []
    return ids["late 2"], ids["early 1"]


async def test_an_archive_that_lacks_its_files_is_taken_for_another_one(
    kept: Retained, archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    """Its volume may not be mounted: what was written there would be lost from sight."""
    await kept.run("t1")
    await kept.days(31)
    await kept.forget()
    there, aside = Path(archive.place), Path(archive.place).with_name("aside")
    there.rename(aside)
    there.mkdir()
    id = await kept.run("t2")
    await kept.days(31)
    retention = kept.retention()
    assert await retention.step() == RetentionLimits.every
    assert retention.tally.failures == 1
    assert "volume" in caplog.text
    assert await kept.asking.run(id) is not None
    assert list(there.iterdir()) == []
    with pytest.raises(ArchiveUnavailable, match="volume"):
        await kept.forget()
    there.rmdir()
    aside.rename(there)
    assert (await kept.forget()).archived["runs"] == 1


async def test_where_runs_were_archived_the_rest_goes_for_good_only_if_that_is_said(
    kept: Retained, archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting that was lost would lose runs."""
    await kept.run("t1")
    await kept.days(31)
    await kept.forget()
    kept.archive = None
    id = await kept.run("t2")
    await kept.days(31)
    retention = kept.retention()
    assert await retention.step() == RetentionLimits.every
    assert retention.tally.failures == 1
    assert f"SAGABOX_ARCHIVE={archive.place}" in caplog.text
    assert await kept.asking.run(id) is not None
    done = await kept.retention(for_good=True).whole_round(at_once)
    assert done is not None
    assert (done.archived["runs"], done.removed["runs"]) == (0, 1)
    assert await kept.asking.run(id) is None


async def test_another_archive_can_be_begun_at_any_time(kept: Retained, tmp_path: Path) -> None:
    for name in ("one", "two"):
        kept.archive = archive_at(str(tmp_path / name))
        await kept.run(name)
        await kept.days(31)
        assert (await kept.forget()).archived["runs"] == 1


async def _left_unfinished(kept: Retained) -> str:
    """A run that is old, of which a file was noted, and not written: the archive failed."""
    assert kept.archive is not None
    place = Path(kept.archive.place)
    place.write_text("no folder, as a disk that is full or gone")
    id = await kept.run()
    await kept.days(31)
    retention = kept.retention()
    while not retention.tally.failures:
        await retention.step()
    assert (await kept.counts())["saga_archive"] == 1
    return id


async def test_a_file_that_an_archive_could_not_take_does_not_tie_retention_to_that_archive(
    kept: Retained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else no way would lead on from a disk that is full, or gone for good."""
    id = await _left_unfinished(kept)
    first, kept.archive = kept.archive, archive_at(str(tmp_path / "another"))
    assert first is not None
    assert (await kept.forget()).archived["runs"] == 1
    assert f"is left as it is in the archive {first.place}" in caplog.text
    assert (await kept.counts())["saga_archive"] == 1
    assert await kept.archived.find(id) is not None


async def test_a_file_that_an_archive_could_not_take_keeps_a_lost_setting_from_losing_runs(
    kept: Retained, caplog: pytest.LogCaptureFixture
) -> None:
    id = await _left_unfinished(kept)
    first, kept.archive = kept.archive, None
    assert first is not None
    retention = kept.retention()
    while not retention.tally.failures:
        await retention.step()
    assert f"SAGABOX_ARCHIVE={first.place}" in caplog.text
    assert await kept.asking.run(id) is not None
    done = await kept.retention(for_good=True).whole_round(at_once)
    assert done is not None
    assert (done.archived["runs"], done.removed["runs"]) == (0, 1)


@pytest.mark.databases("sqlite")
async def test_a_process_that_still_writes_to_an_archive_named_no_longer_removes_nothing(
    kept: Retained, tmp_path: Path
) -> None:
    """Its file was forgotten meanwhile, and goes with it."""
    first = kept.archive
    assert first is not None
    id = await kept.run()
    await kept.days(31)
    slow, another = kept.retention(), archive_at(str(tmp_path / "another"))
    write, began = first.write, asyncio.Event()

    def writing(*args: Any) -> Manifest:
        made = write(*args)
        asyncio.run_coroutine_threadsafe(taken_over(), loop).result()
        return made

    async def taken_over() -> None:
        kept.clock.advance(RetentionLimits.lease + 1)
        kept.archive = another
        assert (await kept.forget()).archived["runs"] == 1
        began.set()

    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "write", writing)
        while not began.is_set():
            await slow.step()
    assert slow.tally.archived["runs"] == 0
    assert [*Path(first.place).rglob("*.json"), *Path(first.place).rglob("*.gz")] == []
    found = await kept.archived.find(id)
    assert found is not None
    assert found.archived is not None
    assert found.archived.place == str(tmp_path / "another")


async def test_long_histories_count_in_the_size_of_a_file(kept: Retained, archive: Archive) -> None:
    """A step reads all of a file's lines at once."""
    for number in range(3):
        await kept.run(f"t{number}")
    async with kept.engine.begin() as connection:
        await connection.execute(tables.saga.update().values(entries=100_000))
    await kept.days(31)
    assert (await kept.forget()).archived["runs"] == 3
    assert len(manifests(archive)) == 3


class Memory:
    """A storage in memory."""

    place = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def get(self, path: str) -> bytes | None:
        return self.files.get(path)

    def remove(self, path: str) -> None:
        self.files.pop(path, None)


AT = datetime(2030, 1, 1, tzinfo=UTC)


def test_many_look_into_the_archive_at_once() -> None:
    """Those who look share the manifests that were read lately."""
    archive = Archive(Memory(), JsonLines())
    paths = [f"runs/{number}" for number in range(70)]
    for path in paths:
        archive.write("runs", path, [Item(path, 1, b"{}")], AT)

    def look(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(20_000):
            assert archive.manifest(chosen.choice(paths)) is not None

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(look, range(8)))
    finally:
        sys.setswitchinterval(interval)


def test_a_manifest_of_newer_code_is_read() -> None:
    """Fields are only added, as in lines."""
    memory = Memory()
    archive = Archive(memory, JsonLines())
    archive.write("runs", "runs/one", [Item("i", 7, b"{}")], AT)
    told = json.loads(memory.files["runs/one.manifest.json"])
    memory.put("runs/one.manifest.json", json.dumps({**told, "new": 1}).encode())
    found = Archive(memory, JsonLines()).whole("runs/one")
    assert found is not None
    assert found.items == {"i": 7}
