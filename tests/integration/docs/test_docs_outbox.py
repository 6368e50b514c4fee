"""What the page on the outbox tells a reader to type does what it says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import outbox
from outbox import sqlite
from outbox.clock import SystemClock
from outbox.integrations import operations
from outbox.lanes import BLOCKED
from outbox.retry import OnExhaustion
from outbox.tables import outbox_dead, outbox_held, outbox_scheduled
from outbox.testing import FakeClock
from tests.support.databases.databases import Database
from tests.support.databases.migrating import Told, address
from tests.support.outbox.holding import HoldingBench
from tests.support.outbox.letters import a_letter, an_id
from tests.support.outbox.relays import commit, message, row
from tests.support.processes.cli import sagabox
from tests.support.repository.manual import blocks, commands, rows

PAGE = "docs/operate/outbox.md"
_MODULE = """
import outbox
from sqlalchemy.ext.asyncio import create_async_engine

service = outbox.Service("stock", create_async_engine({url!r}), peers={{"crm": "http://crm:8000"}})
"""


@pytest.fixture
def variables(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What the page's reader has: a service, and the ids that the page has names for."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "stock.py").write_text(_MODULE.format(url=database.url))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shop", "shop.stock"):
        # It is imported anew here, and forgotten afterwards: another test has another one.
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    now = SystemClock().now()
    shipped: dict[str, Any] = {"destination": "crm", "type": "stock.shipped.v1"}
    fresh: dict[str, Any] = {"died_at": now - timedelta(hours=1)}
    later = message("k", type="stock.paid.v1")
    reminder = message("k", type="stock.reminder.v1")

    async def fill(engine: AsyncEngine) -> tuple[str, str]:
        if engine.dialect.name == "sqlite":
            sqlite.configure(engine)
        blocked = []
        for key in ("one", "two"):
            ids = await commit(engine, message(key), message(key), destination="crm")
            blocked.append((key, ids[0]))
        async with engine.begin() as connection:
            for number, changes in enumerate(
                (shipped | fresh, shipped | fresh, fresh, {"died_at": now - timedelta(days=40)})
            ):
                letter = a_letter(number, **changes)
                await connection.execute(insert(outbox_dead).values(**letter))
            for key, id in blocked:
                hold = {
                    "destination": "crm",
                    "bucket": message(key)[0],
                    "aggregateid": key,
                    "head_id": id,
                    "attempts": 12,
                    "next_at": BLOCKED,
                    "last_error": "no",
                }
                await connection.execute(insert(outbox_held).values(**hold))
            for bucket, envelope in (later, reminder):
                due = {"due_at": now + timedelta(days=9)}
                values = row(bucket, envelope, "crm") | due
                await connection.execute(insert(outbox_scheduled).values(**values))
        bench = HoldingBench(engine, clock=FakeClock(now))
        await bench.hold(bench.note("first"), bench.note("second"))
        await engine.dispose()
        return blocked[0][1], blocked[1][1]

    one, two = asyncio.run(fill(create_async_engine(database.url)))
    return {
        "DATABASE": address(database),
        "LETTER": an_id(0),
        "OTHER": an_id(2),
        "BLOCKED": one,
        "BLOCKED2": two,
        "LATER": later[1].id,
    }


def _says(text: str) -> Callable[[Told], bool]:
    return lambda told: text in told.out


def _is_json(told: Told) -> bool:
    return json.loads(told.out)["service"] in ("stock", "service")


_EXPECTED: tuple[tuple[str, Callable[[Told], bool]], ...] = (
    ("outbox status --service", _says("no relay runs: nothing is sent")),
    ("outbox status --database", _is_json),
    ("outbox tail", _says("0 told")),
    ("outbox dead", _says(an_id(0))),
    ("outbox redrive 0", _says("1 dead letter sent again")),
    ("outbox redrive --type", _says("1 dead letter would be sent again")),
    ("outbox redrive --type", _says("1 dead letter sent again")),
    ("outbox drop 0", _says("1 dead letter deleted")),
    ("outbox purge", _says("1 dead letter would be deleted")),
    ("outbox purge", _says("1 dead letter deleted")),
    ("outbox held", _says("blocked")),
    ("outbox redrive 0", _says("1 held message sent again")),
    ("outbox drop 0", _says("1 held message buried")),
    ("outbox schedule list", _says("stock.reminder.v1")),
    ("outbox schedule move 0", _says("1 scheduled message moved")),
    ("outbox schedule move --destination", _says("2 scheduled messages would be moved")),
    ("outbox schedule drop", _says("1 scheduled message deleted")),
    ("outbox received list", _says("waiting")),
    ("outbox received show", _says("partitionkey")),
    ("outbox received redrive --key", _says("1 message would be tried again")),
    ("outbox received redrive 1", _says("1 message tried again")),
    ("outbox received drop", _says("2 messages deleted")),
)


def test_the_commands_of_the_page_do_what_it_says(variables: dict[str, str]) -> None:
    typed = commands(PAGE, "bash")
    assert len(typed) == len(_EXPECTED)
    for command, (beginning, is_right) in zip(typed, _EXPECTED, strict=True):
        whole = re.sub(r"\$(\w+)", lambda it: variables[it[1]], command)
        program, *words = shlex.split(whole)
        assert program == "sagabox"
        assert " ".join(words).startswith(beginning)
        told = sagabox(*words)
        assert told.code == 0, (command, told)
        assert is_right(told), (command, told)


def test_the_service_of_the_page_has_the_policy(database: Database) -> None:
    given, mounting = blocks(PAGE, "python")
    found: dict[str, Any] = {"outbox": outbox, "engine": create_async_engine(database.url)}
    exec(given, found)
    settings = found["service"].relay_settings
    assert settings.of("ledger").on_exhaustion is OnExhaustion.BLOCK_KEY
    assert settings.of("crm").on_exhaustion is OnExhaustion.DEAD_LETTER_AND_CONTINUE
    assert "outbox.operator_app(service)" in mounting


@pytest.mark.databases("sqlite")
def test_the_receiver_of_the_page_on_brokers_is_one(database: Database) -> None:
    (given,) = [it for it in blocks("docs/operate/brokers.md", "python") if "HeldPolicy" in it]
    found: dict[str, Any] = {"outbox": outbox, "engine": create_async_engine(database.url)}
    exec(given, found)
    assert isinstance(found["service"], outbox.Service)


def test_the_policies_of_the_page_are_those_of_the_code() -> None:
    text = (Path(__file__).parents[3] / PAGE).read_text()
    for policy in OnExhaustion:
        assert f"| `{policy.value}` |" in text


def test_the_addresses_of_the_page_are_those_of_the_application(database: Database) -> None:
    service = outbox.Service("stock", create_async_engine(database.url), peers={})
    routes: Any = operations._router(service).routes
    there = {f"`{method} {it.path}`" for it in routes for method in it.methods}
    assert {cells[0] for cells in rows(PAGE, "addresses")} == there
