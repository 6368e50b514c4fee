"""Retention in a real process, which is killed at each of its points and started again; and what
the terminal shows afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

import orchestrator
from orchestrator import tables
from orchestrator.cli.processes.blog import Blog
from orchestrator.cli.processes.child import Child
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.machine.instance import Status
from orchestrator.machine.transition import Entry, Happening
from orchestrator.sagas.delete_article import delete_article
from outbox.clock import SystemClock
from outbox.crashpoints import ENVIRONMENT_VARIABLE
from outbox.ids import first_at
from outbox.replacing import replace
from outbox.testing import crash_points
from tests.support.databases.databases import Database, Schema
from tests.support.orchestrator.engines import opened
from tests.support.orchestrator.orchestrating import begun, orchestrator_schema, put, put_history
from tests.support.processes import zygote
from tests.support.processes.cli import sagabox
from tests.support.processes.guardian import guardian
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port, until

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.slow]
POINTS = sorted(it for it in crash_points(orchestrator) if it.startswith("retention: "))


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_schema


async def old_runs(engine: AsyncEngine, *numbers: int) -> list[str]:
    """Runs that ended 60 days ago, each with a line of history."""
    database, ids = opened(engine), list[str]()
    ended_at = SystemClock().now() - timedelta(days=60)
    for number in numbers:
        id = first_at(ended_at + timedelta(seconds=number))
        run = replace(begun(id=id), ended=Status.COMPLETED)
        await put(database, run, created_at=ended_at, updated_at=ended_at, ended_at=ended_at)
        await put_history(database, id, Entry(ended_at, Happening.ENDED, "COMPLETED"))
        ids.append(id)
    return ids


@asynccontextmanager
async def serving(
    database: Database, folder: Path, extra: Mapping[str, str]
) -> AsyncIterator[Child]:
    """The orchestrator, ready, or dead at the crash point that `extra` names."""
    names = ("orchestrator", "articles", "comments")
    blog = Blog(
        databases={"orchestrator": database.url},
        ports={name: free_port() for name in names},
        secret=SECRET,
        logs=folder,
    )
    child = await zygote.start(blog.spec("orchestrator", extra=extra))
    guardian().entrust_process(child.pid)
    try:
        try:
            await child.ready()
        except CommandError:
            if ENVIRONMENT_VARIABLE not in extra or child.ending != "SIGKILL":
                raise
        yield child
    finally:
        await child.kill()


def shown(child: Child, *arguments: str) -> dict[str, Any]:
    told = sagabox("show", *arguments, "--history", "--json", "--url", child.spec.url)
    assert told.code == 0, told
    found: dict[str, Any] = json.loads(told.out)
    return found


async def test_a_process_that_is_killed_at_each_point_loses_and_doubles_no_run(
    database: Database, engine: AsyncEngine, tmp_path: Path
) -> None:
    # Once a definition was run here, its runs are looked for.
    async with engine.begin() as connection:
        row: dict[str, Any] = {
            "name": "delete-article",
            "version": 1,
            "seen_at": SystemClock().now(),
        }
        row["fingerprint"] = delete_article.fingerprint
        await connection.execute(insert(tables.saga_definition).values(row))
    archive = tmp_path / "archive"
    settings = {"SAGABOX_RETENTION": "on", "SAGABOX_ARCHIVE": str(archive)}
    ids: list[str] = []
    for place, point in enumerate(POINTS):
        ids += await old_runs(engine, 10 * place, 10 * place + 1)
        crash = {**settings, ENVIRONMENT_VARIABLE: f"{point}:1"}
        async with serving(database, tmp_path, crash) as child:
            await asyncio.wait_for(child.wait(), 60)
            assert child.ending == "SIGKILL", child.spec.log.read_text()
    async with serving(database, tmp_path, settings) as child:

        async def all_are_archived() -> bool:
            async with engine.connect() as connection:
                return not (await connection.execute(tables.saga.select())).all()

        await until(all_are_archived, deadline=60, what="all runs are archived")
        for id in ids:
            found = await asyncio.to_thread(shown, child, id)
            assert found["status"] == "COMPLETED"
            assert Path(found["archived"]["place"]) == archive
            assert (archive / found["archived"]["file"]).is_file()
            assert [it["happening"] for it in found["history"]] == ["ended"]
        told = await asyncio.to_thread(sagabox, "show", ids[0], "--url", child.spec.url)
        assert f"in {archive}" in told.out
        told = await asyncio.to_thread(
            sagabox, "cancel", ids[0], "--reason", "late", "--url", child.spec.url
        )
        assert told.code != 0
        assert "archived" in told.err
    in_files = [
        id for it in archive.rglob("*.manifest.json") for id in json.loads(it.read_bytes())["items"]
    ]
    assert sorted(in_files) == sorted(ids)
    assert len([it for it in archive.rglob("*") if it.is_file()]) == 2 * len(
        list(archive.rglob("*.manifest.json"))
    )


async def test_a_round_by_hand_and_what_it_would_do(
    database: Database, engine: AsyncEngine, tmp_path: Path
) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            insert(tables.saga_definition).values(
                name="delete-article", version=1, seen_at=SystemClock().now(), fingerprint="x"
            )
        )
    await old_runs(engine, 1, 2)
    at = {"SAGABOX_DATABASE_URL_ORCHESTRATOR": database.url}

    def run(*arguments: str, **variables: str) -> Any:
        return sagabox("retention", *arguments, **{**at, **variables})

    told = await asyncio.to_thread(run, "--dry-run")
    assert told.code == ExitCode.REFUSED
    assert "SAGABOX_RETENTION" in told.err
    told = await asyncio.to_thread(run, "--dry-run", "--json", SAGABOX_RETENTION="on")
    planned = {(it["what"], it["status"]): it for it in json.loads(told.out)["items"]}
    assert planned["delete-article", "COMPLETED"]["count"] == 2
    assert planned["delete-article", "COMPLETED"]["age"] == 30 * 86400
    told = await asyncio.to_thread(run, "--dry-run", "--policy", "90d")
    assert "nothing was removed" in told.out
    assert "90d" in told.out
    told = await asyncio.to_thread(run, "--policy", "STUCK=1d")
    assert (told.code, "has not ended" in told.err) == (ExitCode.REFUSED, True)
    archive = tmp_path / "archive"
    told = await asyncio.to_thread(
        run, "--json", SAGABOX_RETENTION="on", SAGABOX_ARCHIVE=str(archive)
    )
    assert json.loads(told.out)["archived"] == {"runs": 2}
    await old_runs(engine, 3)
    told = await asyncio.to_thread(run, "--policy", "on")
    assert told.code == ExitCode.REFUSED, told
    assert f"--archive {archive}" in told.err
    told = await asyncio.to_thread(run, "--policy", "on", "--archive", "none", "--json")
    assert json.loads(told.out)["removed"]["runs"] == 1
    told = await asyncio.to_thread(run, SAGABOX_RETENTION="on", SAGABOX_ARCHIVE=str(archive))
    assert told.code == 0
    assert "tombstones of runs" in told.out
