"""Addresses with options of libpq, on a real PostgreSQL, by both drivers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.address.urls import database_url
from outbox.database.opening import open_database
from tests.support.checkout import CERTIFICATE
from tests.support.databases import binaries
from tests.support.databases.postgres import PostgresServer

_RULES = """
local all all trust
host all postgres all trust
host all all all scram-sha-256
"""
PASSWORD = "p@ss%w/rd:?#"  # of a server that ends with the test
DRIVERS = ["postgresql", "postgresql+psycopg"]


@dataclass(frozen=True)
class Server:
    port: int
    sockets: Path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL with TLS, a socket, and a role whose password is asked for over TCP. That of
    the test requirements is built without TLS."""
    system = binaries.from_system()
    if system is None:
        pytest.skip("no PostgreSQL of the system's packages; `.ci/run` installs Debian's")
    folder = Path(tempfile.mkdtemp(prefix="sagabox-urls-", dir="/tmp"))
    key = folder / "server.pem"
    shutil.copy(CERTIFICATE, key)
    if (user := binaries.ordinary_user()) is not None:
        shutil.chown(folder, user)
        shutil.chown(key, user)
    key.chmod(0o600)
    rules = folder / "hba.conf"
    rules.write_text(_RULES)
    settings = {
        "hba_file": str(rules),
        "ssl": "on",
        "ssl_cert_file": str(key),
        "ssl_key_file": str(key),
        "unix_socket_directories": str(folder),
    }
    made = PostgresServer(system, settings=settings)
    with made.connect() as connection:
        create = sql.SQL("CREATE ROLE ann LOGIN PASSWORD {}").format(sql.Literal(PASSWORD))
        connection.execute(create)
        connection.execute("CREATE SCHEMA shop AUTHORIZATION ann")
    yield Server(made.port, folder)
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[AsyncConnection]:
    database = open_database(database_url(address), name="sagabox-test")
    try:
        async with database.engine.connect() as connection:
            yield connection
    finally:
        await database.engine.dispose()


async def asked(address: str, question: str) -> Any:
    async with connected(address) as connection:
        return await connection.scalar(text(question))


NAME = "SELECT current_setting('application_name')"
TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("scheme", DRIVERS)
@pytest.mark.parametrize(
    ("options", "question", "answer"),
    [
        ("", NAME, "sagabox-test"),
        ("application_name=orders", NAME, "orders"),
        ("options=-csearch_path%3Dshop", "SELECT current_schema()", "shop"),
        ("connect_timeout=10&target_session_attrs=read-write", NAME, "sagabox-test"),
        ("sslmode=disable", TLS, False),
        ("sslmode=require", TLS, True),
        (f"sslmode=verify-full&sslrootcert={CERTIFICATE}", TLS, True),
        ("sslmode=require&channel_binding=prefer", TLS, True),
        ("sslmode=prefer&gssencmode=disable", TLS, True),
    ],
)
async def test_an_option_does_what_it_says(
    server: Server, scheme: str, options: str, question: str, answer: object
) -> None:
    login = f"ann:{quote(PASSWORD, safe='')}"
    address = f"{scheme}://{login}@127.0.0.1:{server.port}/postgres?{options}"
    assert await asked(address, question) == answer


async def test_what_asyncpg_cannot_do_is_done_by_psycopg(server: Server) -> None:
    login = f"ann:{quote(PASSWORD, safe='')}"
    options = "sslmode=require&channel_binding=require"
    address = f"postgresql://{login}@127.0.0.1:{server.port}/postgres?{options}"
    async with connected(address) as connection:
        assert connection.dialect.driver == "psycopg"
        assert await connection.scalar(text(TLS)) is True


@pytest.mark.parametrize("scheme", DRIVERS)
async def test_of_several_hosts_the_one_that_answers_is_taken(server: Server, scheme: str) -> None:
    address = f"{scheme}://postgres@127.0.0.1:1,127.0.0.1:{server.port}/postgres"
    assert await asked(address, "SELECT current_user::text") == "postgres"


@pytest.mark.parametrize("scheme", DRIVERS)
@pytest.mark.parametrize("form", ["in the query", "as the host"])
async def test_a_socket_is_a_folder(server: Server, scheme: str, form: str) -> None:
    folder = str(server.sockets)
    if form == "in the query":
        address = f"{scheme}://ann@/postgres?host={folder}&port={server.port}"
    else:
        address = f"{scheme}://ann@{quote(folder, safe='')}:{server.port}/postgres"
    assert await asked(address, "SELECT inet_server_addr() IS NULL") is True
