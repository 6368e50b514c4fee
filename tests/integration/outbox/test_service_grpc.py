"""`outbox.Service` over gRPC: where it listens, and what a wrong setting gets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from articles.settings import ArticlesSettings
from outbox.chassis.settings import InvalidSettings, load
from outbox.errors import InvalidService
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.outbox.inboxes import Book, Booked, ledger_schema, write_entry
from tests.support.outbox.services import SECRETS, make_service
from tests.support.processes.waiting import free_port, until

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def by_code(service: outbox.Service, port: int, _: pytest.MonkeyPatch) -> None:
    service.entrance.listen_grpc(port)


def by_environment(_: outbox.Service, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGABOX_GRPC_PORT", str(port))


@pytest.mark.parametrize("listen", [by_code, by_environment])
async def test_what_one_service_adds_takes_effect_in_the_other_over_grpc(
    database_factory: DatabaseFactory,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    listen: Callable[[outbox.Service, int, pytest.MonkeyPatch], None],
) -> None:
    bank, port = make_service(make_engine(database_factory(ledger_schema)), "bank"), free_port()
    listen(bank, port, monkeypatch)
    app = FastAPI()
    bank.attach(app)
    booked: list[str] = []

    @bank.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        booked.append(command.entry)
        return Booked(1)

    peers = {"bank": f"grpc://127.0.0.1:{port}"}
    till = make_service(make_engine(database_factory(ledger_schema)), peers=peers)
    till.entrance.leave_grpc()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(till.running())
        async with till.sessions.begin() as session:
            outbox.add(session, Book("a", "before the bank is there"))
        await stack.enter_async_context(app.router.lifespan_context(app))
        await until(lambda: booked == ["before the bank is there"], 20, "it takes effect")


async def test_a_port_that_is_taken_ends_the_start(engine: AsyncEngine) -> None:
    port = free_port()
    first, second = make_service(engine, "till"), make_service(engine.execution_options(), "till")
    for service in (first, second):
        service.entrance.listen_grpc(port)
    async with first.running():
        with pytest.raises(InvalidService, match=str(port)):
            async with second.running():
                pass


@pytest.mark.parametrize("port", ["many", "0", "70000", "-1"])
async def test_a_port_that_is_none_is_told_with_its_variable(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    monkeypatch.setenv("SAGABOX_GRPC_PORT", port)
    with pytest.raises(InvalidService, match="SAGABOX_GRPC_PORT"):
        async with make_service(engine).running():
            pass


async def test_a_certificate_without_its_key_or_that_is_not_there_is_told(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    service = make_service(engine)
    with pytest.raises(InvalidService, match="SAGABOX_GRPC_KEY"):
        service.entrance.listen_grpc(free_port(), certificate=tmp_path / "chain.pem")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    service.entrance.listen_grpc(free_port(), certificate=chain, key=key)
    with pytest.raises(InvalidService, match=r"chain\.pem cannot be read"):
        async with service.running():
            pass


def test_articles_wants_an_address_that_callers_can_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SAGABOX_DATABASE_URL_ARTICLES": "sqlite:////tmp/none.sqlite",
        "SAGABOX_SECRETS": SECRETS,
        "SAGABOX_PEERS": "orchestrator=grpc://127.0.0.1:8100",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match="SAGABOX_PUBLIC_URL_ORCHESTRATOR"):
        load(ArticlesSettings).sagas_at()
    monkeypatch.setenv("SAGABOX_PUBLIC_URL_ORCHESTRATOR", "http://127.0.0.1:8000")
    assert load(ArticlesSettings).sagas_at() == "http://127.0.0.1:8000"
