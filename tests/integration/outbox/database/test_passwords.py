"""A password that changes while a service runs: each new connection asks for the present one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

import outbox
from outbox.chassis.configured import ConfiguredService
from outbox.chassis.settings import ServiceSettings
from outbox.database.address.passwords import password_at
from outbox.database.opening import open_database
from outbox.replies import Outcome
from outbox.safe_text import is_text
from outbox.tables import metadata
from outbox.transports import MemoryTransport
from tests.support.databases.guarded import Rotating, guarded_server
from tests.support.databases.postgres import PostgresServer
from tests.support.outbox.inboxes import Noted
from tests.support.outbox.services import SECRETS, make_plain_service, make_service
from tests.support.processes.waiting import until


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with guarded_server() as made:
        yield made


@pytest.fixture
def rotating(server: PostgresServer) -> Rotating:
    found = Rotating(server)
    found.rotate("first")
    with server.connect() as connection:
        connection.execute("DROP OWNED BY app CASCADE")
        connection.execute("GRANT CREATE ON SCHEMA public TO app")
    engine = create_engine(found.address)
    outbox.ask_password(engine, found.password)
    with engine.begin() as transaction:
        metadata.create_all(transaction)
    engine.dispose()
    return found


async def _sends(service: Any, arrived: list[str], word: str, *, is_async: bool) -> None:
    async def add() -> bool:
        try:
            if is_async:
                async with service.sessions.begin() as session:
                    outbox.add(session, Noted(word))
            else:
                with service.sessions.begin() as session:
                    outbox.add(session, Noted(word))
        except Exception:  # a connection that was ended just now
            return False
        return True

    await until(add, what="the message is added")
    await until(lambda: word in arrived, what="it is sent", deadline=30)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "synchronous"])
async def test_a_service_goes_on_after_its_password_has_changed(
    rotating: Rotating, driver: str
) -> None:
    arrived: list[str] = []

    async def receive(envelopes: Any, settled: object) -> Any:
        arrived.extend(each.key for each in envelopes)
        return [outbox.Reply(Outcome.DONE) for _ in envelopes]

    options: dict[str, Any] = {
        "routes": {Noted: ["press"]},
        "peers": {"press": "http://127.0.0.1:1"},
        "transports": {"press": MemoryTransport(receive)},
    }
    service: outbox.Service[Any]
    if driver == "synchronous":
        plain = create_engine(rotating.address)
        outbox.ask_password(plain, rotating.password)
        service = make_plain_service(plain, **options)
    else:
        engine = create_async_engine(rotating.address.replace("psycopg", driver))
        outbox.ask_password(engine, rotating.password_later)
        service = make_service(engine, **options)
    is_async = driver != "synchronous"
    async with service.running():
        await _sends(service, arrived, "before", is_async=is_async)
        rotating.rotate("second")
        await _sends(service, arrived, "after", is_async=is_async)
    await service.engine.dispose()
    if driver == "synchronous":
        plain.dispose()


async def test_a_database_of_the_settings_asks_the_function_that_is_named(
    rotating: Rotating,
) -> None:
    database = open_database(rotating.address, name="x", password=rotating.password_later)
    for word in ("second", "third"):
        rotating.rotate(word)
        await database.engine.dispose()
        async with database.reading.connect() as connection:
            assert await connection.scalar(text("SELECT current_user::text")) == "app"
    await database.engine.dispose()


def first() -> str:
    """The password that the server begins with."""
    return "first"


async def test_a_service_that_is_configured_asks_the_function_of_its_settings(
    rotating: Rotating,
) -> None:
    settings = ServiceSettings(secrets=SECRETS, database_password_from=f"{__name__}:first")
    service = ConfiguredService(
        "bank", settings, database_url=rotating.address, revision="any", peers={}
    )
    async with service.engine.connect() as connection:
        assert await connection.scalar(text("SELECT current_user::text")) == "app"
    await service.engine.dispose()


def test_a_coroutine_function_is_none_for_a_synchronous_engine(rotating: Rotating) -> None:
    engine = create_engine(rotating.address)
    with pytest.raises(outbox.OutboxError, match="coroutine function, and the engine is synchr"):
        outbox.ask_password(engine, rotating.password_later)


@pytest.mark.parametrize(
    "place",
    ["nothing", "no.such:function", "os:nothing", "os:name", "..", "../x:y", "\udcff:y", ":y"],
)
def test_a_function_that_is_not_there_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be imported|and no function") as caught:
        password_at(place)
    assert is_text(str(caught.value))
