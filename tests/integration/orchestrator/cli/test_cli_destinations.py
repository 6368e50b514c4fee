"""`sagabox destinations`: what waits for each peer of a service, its pause and its dead letters."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.databases.databases import Database
from tests.support.databases.migrating import Told
from tests.support.outbox.letters import a_letter, bury
from tests.support.outbox.relays import commit, counts, message
from tests.support.processes.cli import sagabox, told_error

_MODULE = """
import outbox
from sqlalchemy.ext.asyncio import create_async_engine

crm = outbox.Webhook("https://crm.example/hook", secret="env:CRM_SECRET")
service = outbox.Service("blog", create_async_engine({url!r}), peers={{"crm": crm}})
"""


@pytest.fixture
def service(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a service, whose secret is not at hand where the operator is."""
    name = f"blog_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(_MODULE.format(url=database.url))
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:service"


def run(service: str, verb: str, *words: str) -> Told:
    return sagabox("destinations", verb, service, *words)


def listed(service: str) -> dict[str, Any]:
    told = run(service, "list", "--json")
    assert told.code == 0, told
    (found,) = json.loads(told.out)["items"]
    return dict(found)


def on(database: Database, work: Any) -> Any:
    """The result of that work on the database."""

    async def do() -> Any:
        engine = create_async_engine(database.url)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return asyncio.run(do())


def test_a_pause_is_shown_with_its_reason_and_ends_by_resume(
    service: str, database: Database
) -> None:
    on(database, lambda engine: commit(engine, message("a"), destination="crm"))
    told = run(service, "pause", "crm", "--reason", "they move", "--actor", "ann")
    assert (told.code, told.out) == (0, "crm is paused\n"), told
    assert run(service, "pause", "crm", "--reason", "again").out == "crm was paused already\n"
    known = listed(service)
    assert (known["destination"], known["unsent"], known["held_keys"]) == ("crm", 1, 0)
    assert known["reason"] == "by ann: they move"
    assert known["paused_since"].endswith("Z")
    told = run(service, "list")
    assert "  paused " in told.out
    assert "by ann: they move" in told.out
    assert run(service, "resume", "crm").out == "crm is resumed\n"
    assert run(service, "resume", "crm").out == "crm was not paused\n"
    assert listed(service)["paused_since"] is None


async def bury_three(engine: Any) -> None:
    await bury(engine, *(a_letter(number, destination="crm") for number in range(3)))


def test_the_dead_letters_of_a_destination_are_sent_again(service: str, database: Database) -> None:
    on(database, bury_three)
    assert listed(service)["dead"] == 3
    told = run(service, "redrive", "crm")
    assert (told.code, told.out) == (0, "3 sent again to crm\n"), told
    assert on(database, counts)["outbox"] == 3


def test_letters_that_die_again_at_once_are_not_sent_again_and_again(
    service: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(database, bury_three)
    deaths = iter(range(5))

    async def die_again(*_: object) -> None:
        assert next(deaths, None) is not None, "it would go on for ever"

    monkeypatch.setattr("outbox.operations.dead_rows.delete_rows", die_again)
    told = run(service, "redrive", "crm")
    assert (told.code, told.out) == (0, "3 sent again to crm\n"), told


def test_a_name_that_is_no_peer_is_refused_with_the_peers(service: str) -> None:
    error = told_error(run(service, "pause", "crn", "--reason", "a slip", "--json"))
    assert "it has: crm" in error["why"]
    error = told_error(run(service, "pause", "crm", "--reason", " ", "--json"))
    assert "no reason" in error["happened"]
