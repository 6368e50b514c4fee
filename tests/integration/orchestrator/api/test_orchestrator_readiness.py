"""/readyz of the orchestrator: red while its committer hangs, and green while a run waits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.app import create_app
from orchestrator.engine.engine import Engine
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store.commit_statements import CommitStatements
from outbox.coordination.progress import STUCK_AFTER
from outbox.testing import FakeClock
from tests.support.blog.blog import (
    START,
    Running,
    articles_app,
    articles_schema,
    new_id,
    running,
)
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.engines import Scripted
from tests.support.orchestrator.orchestrating import PARTICIPANTS, orchestrator_settings
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("sqlite")


@asynccontextmanager
async def _started(
    database: Database, clock: FakeClock, participant: Scripted
) -> AsyncIterator[tuple[Running, Engine]]:
    app = create_app(
        orchestrator_settings(database, poll_interval=0.02, lease=7200),
        sagas=[delete_article],
        participants=PARTICIPANTS,
        clock=clock,
        transports=dict.fromkeys(PARTICIPANTS, participant),
    )
    async with running(app) as service, app.router.lifespan_context(app):
        engine = service.chassis.service.carrier
        assert isinstance(engine, Engine)
        await until(lambda: engine.shards, what="it has its part of the runs")
        yield service, engine


async def _is_ready(service: Running) -> bool:
    return (await service.http.get("/readyz")).status_code == 200


async def test_a_committer_that_hangs_is_named_until_it_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    opening = CommitStatements.open

    async def silent(self: CommitStatements, *arguments: Any, **named: Any) -> Any:
        asked.set()
        await answer.wait()
        return await opening(self, *arguments, **named)

    monkeypatch.setattr(CommitStatements, "open", silent)
    clock, participant = FakeClock(START), Scripted()
    participant.refusals = 10_000
    async with _started(database, clock, participant) as (service, engine):
        starting = asyncio.create_task(engine.start(delete_article, Deletion(new_id())))
        await asked.wait()
        await until(lambda: _is_ready(service), what="it is ready")
        clock.advance(STUCK_AFTER + 1)
        answered = await service.http.get("/readyz")
        assert answered.status_code == 503
        problem = answered.json()
        assert f'"commit what runs do" for {STUCK_AFTER + 1:.0f} s' in problem["detail"]
        assert "restart the process" in problem["next_step"]
        assert (await service.http.get("/livez")).status_code == 200
        answer.set()
        assert (await starting).is_new
        await until(lambda: _is_ready(service), what="it is ready again")


async def test_a_run_that_waits_for_a_participant_leaves_it_ready(database: Database) -> None:
    clock, participant = FakeClock(START), Scripted()
    participant.refusals = 10_000
    async with _started(database, clock, participant) as (service, engine):
        await engine.start(delete_article, Deletion(new_id()))
        for _ in range(60):
            tried = participant.refusals
            clock.advance(60)
            await until(lambda at=tried: participant.refusals < at, what="it is tried again")  # type: ignore[misc]  # bound
            await until(lambda: _is_ready(service), what="it is ready")


async def test_the_kinds_of_work_on_the_page_are_those_of_the_services(
    database: Database, database_factory: DatabaseFactory
) -> None:
    page = (ROOT / "docs" / "operate" / "operating.md").read_text()
    table = page.partition("<!-- kinds of work -->")[2].partition("<!-- end of kinds")[0]
    named = {kind for line in table.splitlines() for kind in re.findall("`([^`]+)`", line[:60])}
    app = articles_app(database_factory(articles_schema), {"comments": Scripted()})
    kinds = {"trim what was read"}  # by a service with a log reader, which has a test of its own
    async with (
        running(app) as articles,
        app.router.lifespan_context(app),
        _started(database, FakeClock(START), Scripted()) as (service, _),
    ):
        await until(lambda: _is_ready(articles), what="it is ready")
        for each in (articles, service):
            kinds |= each.chassis.service.progress.stalled.keys()
    assert {re.sub("^send to .*", "send to ...", kind) for kind in kinds} == named
