"""The role that serves may be another one than the owner, and is told which grant it lacks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox import schema as outbox_schema
from outbox.transports import MemoryTransport
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.inboxes import Noted
from tests.support.outbox.services import make_service
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")

ROLES = ("sagabox_owner", "sagabox_app")


@pytest.fixture
def database_schema() -> str:
    return "empty"


@pytest.fixture
def admin(make_sync_engine: MakeSyncEngine, database: Database) -> Iterator[Engine]:
    """A superuser in that database. The roles are the server's, and go with the test."""
    engine = make_sync_engine(database)
    yield engine
    with engine.begin() as connection:
        for role in ROLES:
            connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
            connection.execute(text(f"DROP ROLE {role}"))


@pytest.fixture
def granted(admin: Engine) -> Engine:
    """The block of the manual was run, and then the owner made the tables."""
    manual = (ROOT / "docs/operate/migrations.md").read_text()
    block = re.search(r"```sql\n(.*?)```", manual, re.DOTALL)
    assert block is not None
    with admin.begin() as connection:
        connection.exec_driver_sql(block[1])
        connection.execute(text("SET LOCAL ROLE sagabox_owner"))
        outbox.tables.metadata.create_all(connection)
    return admin


@pytest.fixture
def app(granted: Engine, database: Database, make_engine: MakeEngine) -> AsyncEngine:
    """The engine of the role that serves."""
    url = make_url(database.url).set(username="sagabox_app")
    address = url.render_as_string(hide_password=False)
    return make_engine(Database(database.kind, address, address, database.server))


async def test_the_grants_of_the_manual_are_enough_to_send_to_handle_and_to_purge(
    app: AsyncEngine, database_factory: DatabaseFactory, make_engine: MakeEngine
) -> None:
    handled: list[str] = []
    service = make_service(app, "press")

    @service.on(Noted)
    async def noted(session: object, event: Noted, context: object) -> None:
        handled.append(event.account)

    sender = make_service(
        make_engine(database_factory("outbox")),
        peers={"press": "http://127.0.0.1:1"},
        transports={"press": MemoryTransport(service.inbox.receive)},
        routes={Noted: ["press"]},
    )
    own = outbox.install(
        service.sessions, source="press", routes={Noted: ["press"]}, clock=service.clock
    )
    relay = outbox.Relay(
        app, {"press": MemoryTransport(service.inbox.receive)}, owner="r", clock=own.clock
    )
    async with service.running(), sender.running():
        async with sender.sessions.begin() as session:
            outbox.add(session, Noted("from the other"))
        async with service.sessions.begin() as session:
            outbox.add(session, Noted("own"))

        async def all_handled() -> bool:
            await relay.run_once()
            return len(handled) == 2

        await until(all_handled, what="both are handled")
        await service.inbox.purge()
    assert sorted(handled) == ["from the other", "own"]


@pytest.mark.parametrize(
    ("revoke", "said", "grant"),
    [
        (
            "SELECT ON SEQUENCE outbox_seq_seq",
            "may not SELECT on the sequence public.outbox_seq_seq in the database of till",
            "GRANT SELECT ON SEQUENCE public.outbox_seq_seq TO sagabox_app;",
        ),
        (
            "UPDATE, DELETE ON outbox_lease",
            "may not UPDATE on the table public.outbox_lease",
            "GRANT UPDATE, DELETE ON TABLE public.outbox_lease TO sagabox_app;",
        ),
        (
            "ALL ON inbox",
            "may not SELECT on the table public.inbox",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE public.inbox TO sagabox_app;",
        ),
        (
            "USAGE ON SCHEMA public",
            "may not USAGE on the schema public",
            "GRANT USAGE ON SCHEMA public TO sagabox_app;",
        ),
    ],
)
async def test_a_service_without_a_grant_does_not_start_and_names_it(
    granted: Engine, app: AsyncEngine, revoke: str, said: str, grant: str
) -> None:
    with granted.begin() as connection:
        connection.execute(text(f"REVOKE {revoke} FROM sagabox_app, PUBLIC"))
    service = make_service(app)
    with pytest.raises(outbox.GrantMissing) as refused:
        async with service.running():
            pass
    assert said in refused.value.problem
    assert refused.value.next_step == f"let the owner of the tables run: {grant}"
    with granted.begin() as connection:
        connection.exec_driver_sql(grant)
        if "SCHEMA" in revoke:
            connection.execute(text("GRANT USAGE ON SCHEMA public TO PUBLIC"))
    async with service.running():
        pass


async def test_a_relay_of_its_own_does_not_start_without_a_grant_and_names_it(
    granted: Engine, app: AsyncEngine
) -> None:
    with granted.begin() as connection:
        connection.execute(text("REVOKE SELECT ON SEQUENCE outbox_seq_seq FROM sagabox_app"))
    relay = outbox.Relay(app, {}, owner="till", clock=outbox.SystemClock())
    with pytest.raises(outbox.GrantMissing) as refused:
        async with asyncio.timeout(20):
            await relay.run(asyncio.Event())
    assert "GRANT SELECT ON SEQUENCE public.outbox_seq_seq TO sagabox_app;" in str(refused.value)
    with granted.begin() as connection:
        connection.execute(text("GRANT SELECT ON SEQUENCE outbox_seq_seq TO sagabox_app"))
    at_once = asyncio.Event()
    at_once.set()
    await relay.run(at_once)


async def test_what_is_only_read_need_not_be_writable(granted: Engine, app: AsyncEngine) -> None:
    with granted.begin() as connection:
        connection.execute(
            text("REVOKE INSERT, UPDATE, DELETE ON schema_revision FROM sagabox_app")
        )
    async with make_service(app).running():
        pass


async def test_a_service_of_sagabox_may_use_the_other_tables_of_their_owner_too(
    granted: Engine, app: AsyncEngine
) -> None:
    with granted.begin() as connection:
        connection.execute(text("SET LOCAL ROLE sagabox_owner"))
        connection.execute(text("CREATE TABLE saga (id integer)"))
        connection.execute(text("REVOKE UPDATE ON saga FROM sagabox_app"))
    with pytest.raises(outbox.GrantMissing, match=r"may not UPDATE on the table public\.saga"):
        await outbox_schema.require_revision(app, service="orchestrator", expected="any")
