"""The page about several addresses: its settings are read, its lines for dnsmasq are served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import outbox
from outbox.chassis.settings import ServiceSettings
from outbox.transports.addresses import destination
from outbox.transports.addresses.destination import Destination, Source
from outbox.transports.addresses.from_dns import look
from outbox.transports.http.peers import peers_in
from tests.support.blog.blog import SECRETS
from tests.support.databases.databases import Database
from tests.support.discovery import dnsmasq
from tests.support.outbox.inboxes import ledger_schema
from tests.support.repository.manual import blocks, rows

PAGE = "docs/operate/addresses.md"


def _settings() -> Iterator[tuple[str, str]]:
    for block in blocks(PAGE, ""):
        for line in block.splitlines():
            name, _, value = line.partition("=")
            yield name, value


def test_the_forms_and_options_on_the_page_are_those_that_there_are() -> None:
    forms = [Destination.parse(form.strip("`")) for form, _ in rows(PAGE, "forms")]
    assert [it.source for it in forms] == list(Source)
    options = {name.strip("`") for name, _ in rows(PAGE, "options")}
    assert options == destination._OPTIONS[Source.CONSUL]


def test_the_settings_on_the_page_are_read_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [peers_in(value) for name, value in _settings() if name == "SAGABOX_PEERS"]
    sources = {Destination.parse(it).source for each in peers for it in each.values()}
    assert len(peers) == 3
    assert sources == set(Source)
    assert peers[0]["comments"] == "http://10.0.0.7:8002,http://10.0.0.8:8002"
    for name, value in _settings():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    registration = ServiceSettings().registration()
    assert registration is not None
    assert registration.id == "comments-10.0.0.7-8002"


async def test_the_python_on_the_page_makes_a_service(tmp_path: Path) -> None:
    (code,) = blocks(PAGE, "python")
    names: dict[str, object] = {
        "outbox": outbox,
        "engine": create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/articles.sqlite"),
    }
    exec(code, names)
    service = names["service"]
    assert isinstance(service, outbox.Service)
    assert service.peers["comments"].count("http://") == 2


async def test_the_lines_for_dnsmasq_give_the_instances_that_the_page_says(tmp_path: Path) -> None:
    (lines,) = blocks(PAGE, "dnsmasq")
    options = [f"--{it}" for it in lines.splitlines()]
    (name,) = set(re.findall(r"_comments\.[a-z_.]+", lines))
    async with dnsmasq.name_server(tmp_path, {}, options) as server:
        found = (await look(Destination.parse(f"http+srv://{name}?server={server.address}"))).found
    assert {(it.address.host, it.priority, it.weight) for it in found} == {
        ("10.0.0.7", 10, 2),
        ("10.0.0.8", 10, 1),
        ("10.0.0.9", 20, 0),
    }


@pytest.mark.databases("postgresql")
async def test_the_statement_on_the_page_gives_a_copy_another_id(database: Database) -> None:
    (statement,) = blocks(PAGE, "sql")
    engine = create_async_engine(database.url)
    ids = []
    for _ in range(2):
        service = outbox.Service("bank", engine, peers={}, secrets=SECRETS)
        async with service.running():
            ids.append(service.database_id)
        async with engine.begin() as connection:
            await connection.execute(text(statement))
    await engine.dispose()
    assert ids[0] is not None
    assert ids[0] != ids[1]


database_schema = pytest.fixture(lambda: ledger_schema)
