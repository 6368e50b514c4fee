"""Runs that were removed, as the API shows them; and the figures of retention."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert

from orchestrator import tables
from orchestrator.client.answers import state_of
from orchestrator.machine.instance import Status
from orchestrator.machine.transition import Entry, Happening
from orchestrator.retention.archive.archive import archive_at
from orchestrator.retention.policy import Policy
from orchestrator.retention.worker import Retention
from outbox.clock import SystemClock
from outbox.ids import first_at
from outbox.testing import FakeClock
from tests.support.blog.blog import START, Running, new_id, running
from tests.support.databases.databases import Database
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    noted_app,
    problem,
    put,
    put_alias,
    put_history,
)
from tests.support.orchestrator.retained import at_once

LINES = [Entry(START, Happening.STARTED, "begin"), Entry(START, Happening.ENDED, "COMPLETED")]


@pytest.fixture
async def orchestrator(database: Database, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(noted_app(database, archive=str(tmp_path), retention="on")) as service:
        yield service


def now_of(orchestrator: Running) -> FakeClock | SystemClock:
    """The clock of the database: PostgreSQL has its own."""
    on_postgres = orchestrator.chassis.database.engine.dialect.name == "postgresql"
    return SystemClock() if on_postgres else FakeClock(START)


async def ended(orchestrator: Running, *, days: float) -> str:
    """A run that ended so many days ago, with its lines."""
    database = orchestrator.chassis.database
    then = now_of(orchestrator).now() - timedelta(days=days)
    id = first_at(then)
    run = replace(begun(id=id), ended=Status.COMPLETED)
    await put(database, run, created_at=then, updated_at=then, ended_at=then)
    await put_history(database, id, *LINES)
    return id


async def forget(orchestrator: Running, policy: str = "on", archive: str | None = None) -> None:
    parsed, database = Policy.parse(policy), orchestrator.chassis.database
    assert parsed is not None
    async with database.engine.begin() as connection:
        await connection.execute(
            insert(tables.saga_definition).values(
                name="delete-article", version=1, seen_at=START, fingerprint="x"
            )
        )
    retention = Retention(
        database,
        parsed,
        None if archive is None else archive_at(archive),
        clock=now_of(orchestrator),
        ids=new_id,
    )
    done = await retention.whole_round(at_once)
    assert done is not None
    assert done.removed["histories" if "history" in policy else "runs"] == 1


async def test_an_archived_run_is_shown_as_it_was_and_marked(
    orchestrator: Running, tmp_path: Path
) -> None:
    id = await ended(orchestrator, days=40)
    before = {
        path: (await orchestrator.http.get(f"/sagas/{id}{path}")).json()
        for path in ("", "/history", "/history?limit=1", "/history?after=1")
    }
    stream = (await orchestrator.http.get(f"/sagas/{id}/events")).text
    await forget(orchestrator, archive=str(tmp_path))
    shown = (await orchestrator.http.get(f"/sagas/{id}")).json()
    assert before[""].pop("archived") is None
    archived = shown.pop("archived")
    assert shown == before[""]
    assert archived["place"] == str(tmp_path)
    assert (tmp_path / archived["file"]).is_file()
    for path in ("/history", "/history?limit=1", "/history?after=1"):
        assert (await orchestrator.http.get(f"/sagas/{id}{path}")).json() == before[path], path
    assert (await orchestrator.http.get(f"/sagas/{id}/events")).text == stream
    assert stream.count("event: ") == 2
    listed = (await orchestrator.http.get("/sagas")).json()
    assert listed["items"] == []


@pytest.mark.parametrize("is_archived", [True, False], ids=["archived", "for good"])
async def test_a_history_that_was_removed_is_told_to_be_removed(
    orchestrator: Running, tmp_path: Path, is_archived: bool
) -> None:
    """An empty one would say that nothing had happened."""
    id = await ended(orchestrator, days=10)
    page = (await orchestrator.http.get(f"/sagas/{id}/history")).json()
    before = (await orchestrator.http.get(f"/sagas/{id}")).json()
    assert (before.pop("history_removed"), page["removed"]) == (None, None)
    place = str(tmp_path) if is_archived else None
    await forget(orchestrator, "COMPLETED=90d,history=7d", place)
    shown = (await orchestrator.http.get(f"/sagas/{id}")).json()
    removed = shown.pop("history_removed")
    assert shown == before, "the run itself stays as it was"
    assert removed["place"] == place
    assert (removed["file"] is not None) is is_archived
    now = now_of(orchestrator).now()
    assert abs(datetime.fromisoformat(removed["at"]) - now) < timedelta(minutes=1)
    page = (await orchestrator.http.get(f"/sagas/{id}/history")).json()
    assert page == {"items": [], "next_cursor": None, "removed": removed}
    assert (await orchestrator.http.get(f"/sagas/{id}/events")).text == ""
    late = Entry(START, Happening.ANSWERED, "late")
    await put_history(orchestrator.chassis.database, id, late, first=3)
    page = (await orchestrator.http.get(f"/sagas/{id}/history")).json()
    assert ([it["number"] for it in page["items"]], page["removed"]) == ([3], removed)


async def test_an_archived_run_tells_that_its_history_was_removed_before(
    orchestrator: Running, tmp_path: Path
) -> None:
    id = await ended(orchestrator, days=40)
    await forget(orchestrator, "COMPLETED=90d,history=7d", str(tmp_path))
    before = (await orchestrator.http.get(f"/sagas/{id}")).json()["history_removed"]
    async with orchestrator.chassis.database.engine.begin() as connection:
        await connection.execute(tables.saga_definition.delete())
    await forget(orchestrator, "on", str(tmp_path))
    shown = (await orchestrator.http.get(f"/sagas/{id}")).json()
    assert shown["archived"]["file"].startswith("runs/")
    assert shown["history_removed"] == before
    assert before["file"].startswith("histories/")
    page = (await orchestrator.http.get(f"/sagas/{id}/history")).json()
    assert page == {"items": [], "next_cursor": None, "removed": before}


@pytest.mark.parametrize("verb", ["cancel", "resolve", "terminate", "pause", "resume"])
async def test_an_operator_is_told_that_it_can_only_be_looked_at(
    orchestrator: Running, tmp_path: Path, verb: str
) -> None:
    id = await ended(orchestrator, days=40)
    await forget(orchestrator, archive=str(tmp_path))
    answer = await orchestrator.http.post(f"/sagas/{id}/{verb}", json={"reason": "r"})
    told = problem(answer, 409, "illegal-signal")
    assert (told["saga_status"], told["allowed"]) == ("COMPLETED", [])
    assert "archived" in told["detail"]
    assert engine_of(orchestrator).told == []


async def test_the_id_of_a_joined_start_shows_the_archived_run(
    orchestrator: Running, tmp_path: Path
) -> None:
    id = await ended(orchestrator, days=40)
    alias = id[:-1] + "7"
    await put_alias(orchestrator.chassis.database, alias, of=id)
    await forget(orchestrator, archive=str(tmp_path))
    answer = await orchestrator.http.get(f"/sagas/{alias}")
    assert answer.json()["id"] == id
    assert answer.headers["content-location"] == f"/sagas/{id}"


async def test_a_run_that_was_not_archived_is_gone_and_later_unknown(
    orchestrator: Running,
) -> None:
    young, old = await ended(orchestrator, days=3), None
    await forget(orchestrator, "2d")
    told = problem(await orchestrator.http.get(f"/sagas/{young}"), 410, "saga-removed")
    assert "COMPLETED" in told["detail"]
    old = await ended(orchestrator, days=40)
    async with orchestrator.chassis.database.engine.begin() as connection:
        await connection.execute(tables.saga.delete())
        await connection.execute(tables.saga_retention.update().values(below=young))
    told = problem(await orchestrator.http.get(f"/sagas/{old}"), 404, "unknown-run")
    assert "may have been removed" in told["next_step"]
    fresh = first_at(now_of(orchestrator).now())
    told = problem(await orchestrator.http.get(f"/sagas/{fresh}"), 404, "unknown-run")
    assert "may have been removed" not in told["next_step"]


async def test_while_the_archive_is_away_one_is_told_to_ask_again(
    orchestrator: Running, tmp_path: Path
) -> None:
    id = await ended(orchestrator, days=40)
    await forget(orchestrator, archive=str(tmp_path))
    for file in tmp_path.rglob("*.manifest.json"):
        file.unlink()
    answer = await orchestrator.http.get(f"/sagas/{id}")
    assert str(tmp_path) in problem(answer, 503, "unavailable")["detail"]


async def test_the_figures_of_retention_are_shown(orchestrator: Running, tmp_path: Path) -> None:
    await ended(orchestrator, days=40)
    await ended(orchestrator, days=10)
    await forget(orchestrator, archive=str(tmp_path))
    told = (await orchestrator.http.get("/metrics")).text
    figures = dict(
        line.rsplit(" ", 1) for line in told.splitlines() if line.startswith("sagabox_retention")
    )
    now = now_of(orchestrator).now()
    assert float(figures["sagabox_retention_round_timestamp_seconds"]) == pytest.approx(
        now.timestamp(), abs=60
    )
    assert 'sagabox_retention_removed_total{kind="runs"}' in figures
    assert 'sagabox_retention_archived_total{kind="letters"}' in figures
    assert "sagabox_retention_failures_total" in figures
    assert "sagabox_late_answers_total" in told


@pytest.mark.parametrize("text", ["soon", "STUCK=3d"])
def test_a_service_with_a_wrong_setting_does_not_start(database: Database, text: str) -> None:
    with pytest.raises(ValueError, match=r"has no age|has not ended"):
        noted_app(database, retention=text)
    with pytest.raises(ValueError, match="no place"):
        noted_app(database, archive="somewhere")


async def test_the_client_reads_an_archived_run(orchestrator: Running, tmp_path: Path) -> None:
    id = await ended(orchestrator, days=40)
    await forget(orchestrator, archive=str(tmp_path))
    state = state_of(json.loads((await orchestrator.http.get(f"/sagas/{id}")).text))
    assert (state.has_ended, state.allowed) == (True, [])
