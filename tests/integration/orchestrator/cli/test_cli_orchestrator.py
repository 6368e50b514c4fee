"""The commands against the orchestrator's own API, which answers as the unit tests' stub does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from orchestrator.cli import main
from orchestrator.errors import ActiveAlready, IllegalSignal
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Retry, Skip
from orchestrator.machine.transition import Entry, Happening
from outbox import tables
from tests.support.blog.blog import START, Running, new_id, running
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import Told
from tests.support.http.servers import serving
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    noted_app,
    orchestrator_schema,
    put,
    put_alias,
    put_history,
)
from tests.support.orchestrator.stub_orchestrator import entry, saga, summary
from tests.support.processes.cli import sagabox, told_error

pytestmark = pytest.mark.databases("sqlite")  # it is about HTTP


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_schema


@dataclass(frozen=True)
class Served:
    """An orchestrator at a real address, whose engine only takes down what it is told."""

    url: str
    running: Running

    async def ask(self, *arguments: str) -> Told:
        """Run `sagabox` against it."""
        return await asyncio.to_thread(sagabox, *arguments, SAGABOX_URL_ORCHESTRATOR=self.url)

    async def ask_json(self, *arguments: str) -> dict[str, object]:
        """The document that it prints."""
        told = await self.ask(*arguments, "--json")
        assert told.code == 0, told
        document: dict[str, object] = json.loads(told.out)
        return document


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with running(noted_app(database)) as it, serving(it.app) as url:
        yield Served(url, it)


async def test_a_saga_is_started_listed_and_shown_and_looks_as_the_stub_says(
    served: Served,
) -> None:
    article = new_id()
    started = await served.ask_json("start", "delete-article", f'{{"article_id": "{article}"}}')
    assert started.keys() == saga().keys()
    steps = started["steps"]
    assert isinstance(steps, list)
    assert steps[0].keys() == saga()["steps"][0].keys()
    assert steps[0]["awaited"].keys() == saga()["steps"][0]["awaited"].keys()
    page = await served.ask_json("list", "--key", article, "--status", "running")
    items = page["items"]
    assert isinstance(items, list)
    assert [it["id"] for it in items] == [started["id"]]
    assert items[0].keys() == summary().keys()
    assert (await served.ask_json("list", "--name", "another"))["items"] == []
    assert (await served.ask("show", str(started["id"]))).code == 0


async def test_a_history_is_shown_and_watched_to_its_end(served: Served) -> None:
    run = begun()
    ended = replace(run, ended=Status.COMPENSATED)
    await put(served.running.chassis.database, ended, status="COMPENSATED")
    happened = [
        Entry(START, Happening.STARTED, "it began"),
        Entry(START, Happening.OPERATOR, "enough", actor="ada"),
        Entry(START, Happening.ENDED, "COMPENSATED"),
    ]
    await put_history(served.running.chassis.database, run.id, *happened)
    alias = new_id()
    await put_alias(served.running.chassis.database, alias, of=run.id)
    shown = await served.ask_json("show", run.id, "--history")
    history = shown["history"]
    assert isinstance(history, list)
    assert [it["number"] for it in history] == [1, 2, 3]
    assert history[0].keys() == entry(1).keys()
    told = await served.ask("watch", alias, "--json")
    assert told.code == 1
    watched = json.loads(told.out)
    assert watched["saga"]["id"] == run.id
    assert [it.pop("status") for it in watched["events"]] == ["COMPENSATED"] * 3
    assert watched["events"] == history


async def test_an_operator_is_heard_by_name_and_with_a_reason(served: Served) -> None:
    run = await put(served.running.chassis.database, begun())
    step = ("--step", "hide article", "--reason", "r", "--actor", "ada")
    assert (await served.ask("retry", run.id, *step)).code == 0
    assert (await served.ask("skip", run.id, *step, "--result", '{"title": "t"}')).code == 0
    engine = engine_of(served.running)
    assert engine.told == [
        (run.id, Retry("hide article", "ada", "r")),
        (run.id, Skip("hide article", "ada", "r", {"title": "t"})),
    ]
    engine.refusal = IllegalSignal("no", status="STUCK", allowed=("retry",))
    for verb in ("cancel", "terminate", "resolve", "pause", "resume"):
        told = await served.ask(verb, run.id, "--reason", "r", "--json")
        assert told.code == 2
        assert told_error(told)["next_step"] == (f"sagabox retry {run.id} --reason REASON")


async def test_refusals_lead_to_the_next_command(served: Served) -> None:
    unknown = new_id()
    told = await served.ask("show", unknown, "--json")
    assert (told.code, told_error(told)["code"]) == (2, "unknown-run")
    told = await served.ask("start", "no-such-saga", "{}", "--json")
    assert told_error(told)["next_step"] == "sagabox start delete-article"
    told = await served.ask("start", "delete-article", "{}", "--json")
    assert told_error(told)["code"] == "invalid-input"
    engine_of(served.running).refusal = ActiveAlready("delete-article", "a1", unknown)
    told = await served.ask("start", "delete-article", '{"article_id": "a1"}', "--json")
    assert told_error(told)["next_step"] == f"sagabox watch {unknown}"


async def test_dead_letters_are_listed_and_sent_again(served: Served) -> None:
    row = {
        "id": (letter := new_id()),
        "destination": "articles",
        "bucket": 0,
        "aggregatetype": "outbox",
        "aggregateid": "key",
        "type": "outbox.saga-ended.v1",
        "payload": "{}",
        "headers": "{}",
        "occurred_at": START,
        "reason": "given up",
        "attempts": 9,
        "died_at": START,
    }
    async with served.running.chassis.database.engine.begin() as connection:
        await connection.execute(tables.outbox_dead.insert().values(row))
    assert letter in (await served.ask("dead-letters")).out
    assert await served.ask_json("dead-letters", "redrive", letter) == {
        "redriven": 1,
        "new_ids": {},
    }
    assert (await served.ask_json("dead-letters"))["items"] == []
    told = await served.ask("dead-letters", "redrive", letter, "--json")
    assert (told.code, told_error(told)["code"]) == (2, "no-such-message")


def test_every_command_is_registered() -> None:
    names = {it.name or getattr(it.callback, "__name__", "") for it in main.registered_commands}
    assert names >= {"start", "list", "show", "watch", "cancel", "retry", "skip", "audit"}
