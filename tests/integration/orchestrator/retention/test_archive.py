"""Runs in the archive: what is in its files, and how they are found again."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from orchestrator import tables
from orchestrator.errors import ArchiveUnavailable, InvalidRetention
from orchestrator.machine.instance import Status
from orchestrator.retention.archive.archive import Archive, archive_at, check_archive
from orchestrator.retention.archive.folder import Folder
from orchestrator.retention.archive.formats import JsonLines, Parquet
from orchestrator.retention.archive.s3 import Bucket
from orchestrator.retention.files import FileState
from orchestrator.retention.policy import Policy
from orchestrator.store import queries
from outbox.replies import Outcome, Reply
from outbox.tables import outbox_dead
from tests.support.databases.databases import Database
from tests.support.http.buckets import S3, s3_server
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.retained import Retained, at_once, retained
from tests.support.outbox.letters import a_letter

ROOM = "hotels.reserve-room.v1"
SHORT = Policy.parse("2d")
PLACES = ("folder", "bucket")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as made:
        yield made


def files_of(archive: Archive, kind: str = "runs") -> list[Path]:
    return sorted(it for it in Path(archive.place).glob(f"{kind}/*/*/*/*") if it.is_file())


async def find(world: Retained, id: str) -> Any:
    """The run as the API looks for it."""
    found = await queries.find(opened(world.engine), id)
    assert found is None or isinstance(found, queries.Tombstone)
    return await world.archived.find(id, found)


async def test_a_run_is_in_one_file_with_a_manifest_and_is_found_again(
    kept: Retained, archive: Archive
) -> None:
    id = await kept.run()
    before = await kept.asking.run(id)
    lines = [it for it in await kept.asking.rows(tables.saga_history) if it.saga_id == id]
    await kept.days(31)
    done = await kept.forget()
    assert (done.archived["runs"], done.removed["runs"]) == (1, 1)
    assert await kept.asking.run(id) is None
    data, told = files_of(archive)
    manifest = json.loads(told.read_bytes())
    assert manifest["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (manifest["items"], manifest["bytes"]) == (
        {id: before.revision},
        data.stat().st_size,
    )
    assert manifest["file"] == str(data.relative_to(archive.place))
    (line,) = gzip.decompress(data.read_bytes()).splitlines()
    assert json.loads(line)["run"]["state"] == before.state
    found = await find(kept, id)
    for name in ("name", "key", "status", "state", "document", "created_at", "ended_at"):
        assert getattr(found, name) == getattr(before, name), name
    assert [(it.number, it.at, it.happening) for it in found.history] == [
        (it.number, it.at, it.happening) for it in lines
    ]
    assert found.archived.file == manifest["file"]


async def test_the_start_that_was_joined_to_a_run_finds_it_in_the_archive(kept: Retained) -> None:
    kept.participants["hotels"].replies[ROOM] = Reply(Outcome.ONGOING)
    active, alias = await kept.run(), await kept.run()
    kept.participants["hotels"].replies.clear()
    await kept.a_minute()
    await kept.days(3)
    await kept.forget(SHORT)
    assert (await find(kept, alias)).id == active
    await kept.days(31)
    await kept.forget(SHORT)
    assert await kept.asking.rows(tables.saga_alias) == []
    assert (await find(kept, alias)).id == active
    assert (await find(kept, active)).id == active


async def test_a_run_is_found_among_files_whose_ranges_lie_over_each_other(
    kept: Retained,
) -> None:
    kept.participants["hotels"].replies[ROOM] = Reply(Outcome.ONGOING)
    long = await kept.run("long")
    kept.participants["hotels"].replies.clear()
    ids = [long]
    for number in range(3):
        ids.append(await kept.run(f"t{number}"))
        await kept.a_minute()
        await kept.days(2)
        await kept.forget(SHORT)
    await kept.days(31)
    await kept.forget(SHORT)
    assert await kept.asking.rows(tables.saga_alias) == []
    files = await kept.asking.rows(tables.saga_archive)
    assert len(files) == 3
    assert sum(it.first_id <= long <= it.last_id for it in files) == 1
    for id in ids:
        assert (await find(kept, id)).id == id


async def test_an_id_that_was_never_there_is_not_found(kept: Retained) -> None:
    before = kept.ids()
    await kept.run("t1")
    between = kept.ids()
    await kept.run("t2")
    await kept.days(31)
    await kept.forget()
    for id in (before, between, kept.ids()):
        assert await find(kept, id) is None


async def test_dead_letters_are_archived_too(kept: Retained, archive: Archive) -> None:
    letters = [a_letter(1), a_letter(1, destination="articles"), a_letter(2)]
    async with kept.engine.begin() as connection:
        await connection.execute(insert(outbox_dead), letters)
    await kept.days(91)
    done = await kept.forget()
    assert (done.archived["letters"], done.removed["letters"]) == (3, 3)
    data, _ = files_of(archive, "letters")
    lines = [json.loads(it)["letter"] for it in gzip.decompress(data.read_bytes()).splitlines()]
    assert sorted((it["id"], it["destination"]) for it in lines) == sorted(
        (it["id"], it["destination"]) for it in letters
    )
    assert {it["reason"] for it in lines} == {"reason 1", "reason 2"}


# Trouble with the archive


async def test_nothing_is_removed_while_the_archive_is_away(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "archive"
    blocked.write_text("no folder")
    archive = archive_at(str(blocked))
    async with retained(database, archive) as world:
        id = await world.run()
        await world.days(31)
        retention = world.retention()
        while not retention.tally.failures:
            await retention.step()
        assert await world.asking.run(id) is not None
        assert str(blocked) in caplog.text
        blocked.unlink()
        for _ in range(20):
            await retention.step()
        assert retention.tally.archived["runs"] == 1
        assert (await find(world, id)).id == id
        assert len(await world.asking.rows(tables.saga_archive)) == 1


async def test_a_file_that_was_changed_or_lost_is_not_believed(
    kept: Retained, archive: Archive
) -> None:
    id = await kept.run()
    await kept.days(31)
    await kept.forget()
    data, _ = files_of(archive)
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(ArchiveUnavailable, match="another checksum"):
        await find(kept, id)
    data.unlink()
    with pytest.raises(ArchiveUnavailable, match="is missing"):
        await find(kept, id)


async def test_without_the_archive_it_is_told_where_the_run_may_be(
    kept: Retained, archive: Archive
) -> None:
    id = await kept.run()
    await kept.days(31)
    await kept.forget()
    kept.archive = None
    with pytest.raises(ArchiveUnavailable, match=archive.place):
        await find(kept, id)


# Places and forms


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", [JsonLines, Parquet])
@pytest.mark.databases("sqlite")
async def test_each_place_and_form_gives_back_what_it_was_given(
    database: Database, tmp_path: Path, place: str, form: Callable[[], Any], s3: S3
) -> None:
    if place == "folder":
        storage: Any = Folder(tmp_path)
    else:
        storage = Bucket(s3.bucket(), "some/where", s3.client)
    async with retained(database, Archive(storage, form())) as world:
        ids = [await world.run(f"t{number}") for number in range(3)]
        before = [await world.asking.run(it) for it in ids]
        await world.days(31)
        done = await world.forget()
        assert done.archived["runs"] == 3
        # Another process, with an empty memory, and the other form for what is new.
        world.archive = Archive(storage, JsonLines())
        found = [await find(world, it) for it in ids]
        assert [(it.id, it.state, it.ended_at) for it in found] == [
            (it.id, it.state, it.ended_at) for it in before
        ]
        (row,) = await world.asking.rows(tables.saga_archive)
        assert (row.state, row.place) == (FileState.KEPT.value, storage.place)


async def test_a_table_of_parquet_has_columns_to_ask_by(tmp_path: Path) -> None:
    import pyarrow.parquet  # type: ignore[import-untyped]  # it ships no types

    from orchestrator.retention.archive.lines import Item

    line = json.dumps({"kind": "run", "run": {"id": "i", "name": "trip", "status": "COMPLETED"}})
    (tmp_path / "one.parquet").write_bytes(Parquet().write([Item("i", 7, line.encode())]))
    (row,) = pyarrow.parquet.read_table(tmp_path / "one.parquet").to_pylist()
    assert (row["id"], row["name"], row["status"], row["revision"]) == (
        "i",
        "trip",
        "COMPLETED",
        7,
    )


@pytest.mark.parametrize("text", ["archive", "ftp://host/path", "s3://", "file:///tmp/x"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidRetention, match="no place for an archive"):
        archive_at(text)


@pytest.mark.parametrize(
    ("text", "problem", "next_step"),
    [
        ("s3://bucket/some/where?region=x", "no options", "s3://bucket/some/where"),
        ("s3://bucket/some#where", "no options", "s3://bucket/some"),
        ("s3://bucket?x", "no name of a bucket", "s3://bucket/prefix"),
        ("s3://store:9000/bucket", "no name of a bucket", "AWS_ENDPOINT_URL_S3"),
        ("s3://[bucket/prefix", "no name of a bucket", "s3://bucket/prefix"),
    ],
)
def test_what_would_be_lost_of_an_address_is_refused(
    text: str, problem: str, next_step: str
) -> None:
    for of in (archive_at, check_archive):
        with pytest.raises(InvalidRetention, match=problem) as refused:
            of(text)
        assert next_step in (refused.value.next_step or "")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://user:hidden@bucket/prefix",
        "S3://user:hidden@bucket",
        "s3://user:hid/hidden@bucket",
        "s3://hidden@bucket",
        "s4://user:hidden@bucket",
        "s3:user:hidden@bucket",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_shown(text: str) -> None:
    """The place of an archive stands in the tables and is shown."""
    for of in (archive_at, check_archive):
        with pytest.raises(InvalidRetention) as refused:
            of(text)
        told = f"{refused.value} {refused.value.next_step}"
        assert "hid" not in told
        if "//" in text:
            assert "AWS_SECRET_ACCESS_KEY" in told


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    for name in ("a?b", "a#b", "a@b", "s3:"):
        archive = archive_at(str(tmp_path / name))
        assert archive is not None
        assert archive.place == str(tmp_path / name)


def test_no_place_is_no_archive() -> None:
    assert archive_at("") is None
    with pytest.raises(InvalidRetention, match="no form"):
        archive_at("/tmp/x", "csv")


async def test_a_bucket_that_does_not_answer_is_told(s3: S3) -> None:
    bucket = Bucket("not-there", "", s3.client)
    with pytest.raises(ArchiveUnavailable, match="s3://not-there"):
        bucket.put("one", b"content")


def test_a_bucket_that_keeps_something_else_is_not_believed(s3: S3) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(s3.client, name)

        def put_object(self, **asked: Any) -> Any:
            return s3.client.put_object(**{**asked, "Body": b"?", "ChecksumSHA256": _digest(b"?")})

    bucket = Bucket(s3.bucket(), "", Broken())
    with pytest.raises(ArchiveUnavailable, match="not what was written"):
        bucket.put("one", b"content")
    assert bucket.get("two") is None


def _digest(content: bytes) -> str:
    import base64

    return base64.b64encode(hashlib.sha256(content).digest()).decode()


async def test_a_second_round_archives_nothing_twice(kept: Retained, archive: Archive) -> None:
    await kept.run()
    await kept.days(31)
    await kept.forget()
    assert await kept.retention().whole_round(at_once) is not None
    assert len(files_of(archive)) == 2


def test_every_end_can_be_archived() -> None:
    """The table has room for the longest word."""
    assert max(len(it.value) for it in Status) <= 12
