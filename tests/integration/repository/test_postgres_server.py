"""The tests' own PostgreSQL servers do what the tests rely on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from tests.support.checkout import ROOT
from tests.support.databases import binaries
from tests.support.databases.postgres import PostgresServer, Stop
from tests.support.processes.guardian import started
from tests.support.processes.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that these tests may stop and kill."""
    server = PostgresServer()
    yield server
    server.close()


def _one(server: PostgresServer, statement: str, database: str = "postgres") -> object:
    with server.connect(database) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("wal_level", "logical"),
        ("max_connections", "200"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("fsync", "off"),
        ("synchronous_commit", "on"),
        ("TimeZone", "UTC"),
    ],
)
def test_the_server_is_set_up_for_the_tests(
    server: PostgresServer, setting: str, value: str
) -> None:
    assert _one(server, f"SHOW {setting}") == value


def test_the_newest_server_of_the_wheel_is_the_one_that_runs(server: PostgresServer) -> None:
    assert str(_one(server, "SHOW server_version")).startswith("18.")
    assert server.major == 18


@pytest.mark.parametrize("ending", ["fast", "immediate", "kill"])
def test_what_was_committed_is_there_after_every_end_of_the_server(
    server: PostgresServer, ending: str
) -> None:
    url = server.url()
    with server.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (ending TEXT)")
        connection.execute("INSERT INTO kept VALUES (%s)", [ending])
        match ending:
            case "fast":
                server.stop()
            case "immediate":
                server.stop(Stop.IMMEDIATE)
            case _:
                server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(RuntimeError, match=r"start\(\) starts it"):
        _ = server.pid
    server.start()
    assert server.url() == url
    assert _one(server, f"SELECT count(*) FROM kept WHERE ending = '{ending}'") == 1


def test_a_clone_has_what_its_template_has_and_shares_nothing_with_it(
    server: PostgresServer,
) -> None:
    server.create_database("original")
    with server.connect("original") as connection:
        connection.execute("CREATE TABLE note (text TEXT)")
    server.create_database("clone", template="original")
    with server.connect("clone") as connection:
        connection.execute("INSERT INTO note VALUES ('only here')")
    assert _one(server, "SELECT count(*) FROM note", "original") == 0
    assert _one(server, "SELECT count(*) FROM note", "clone") == 1


def test_a_database_is_dropped_although_a_connection_is_still_in_it(server: PostgresServer) -> None:
    server.create_database("visited")
    with server.connect("visited") as visitor:
        server.drop_database("visited")
        with pytest.raises(psycopg.OperationalError):
            visitor.execute("SELECT 1")
    assert _one(server, "SELECT count(*) FROM pg_database WHERE datname = 'visited'") == 0


def test_a_server_that_cannot_start_says_what_its_log_says() -> None:
    with pytest.raises(RuntimeError, match=r"does not start(.|\n)*no_such_setting"):
        PostgresServer(settings={"no_such_setting": 1})


def test_the_system_s_postgresql_can_be_used_as_well(
    older_postgres_server: PostgresServer,
) -> None:
    version = str(_one(older_postgres_server, "SHOW server_version"))
    assert version.startswith(f"{older_postgres_server.major}.")
    assert 14 <= older_postgres_server.major < 18


def test_a_server_runs_from_programs_in_a_folder_that_others_may_not_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    hidden = binaries.copied(binaries.from_wheel(), closed)
    assert not binaries.reachable(hidden.folder)
    server = PostgresServer(hidden)
    try:
        assert _one(server, "SELECT 1") == 1
    finally:
        server.close()


_RUN = """
import os, signal, sys
from tests.support.databases.postgres import PostgresServer
server = PostgresServer()
print(server.pid, server._folder, flush=True)
{ending}
"""


@pytest.mark.parametrize(
    "ending",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.killpg(os.getpgid(0), signal.SIGKILL)",
        "os._exit(1)",
        "raise SystemExit(0)",
    ],
    ids=["killed", "killed with its process group", "crashed", "ended"],
)
def test_nothing_of_the_server_is_left_when_the_test_run_has_ended(ending: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _RUN.format(ending=ending)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        start_new_session=True,
        timeout=60,
    )
    pid, folder = run.stdout.split()
    wait_until(lambda: not started(int(pid)), 30, what="the end of the server")
    wait_until(lambda: not Path(folder).exists(), 30, what="the removal of its folder")
    if "SIGKILL" in ending:
        assert run.returncode == -signal.SIGKILL


async def test_a_process_for_another_user_begins_while_grpc_is_in_use() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary("/a/b")

        async def call() -> None:
            while True:
                with suppress(grpc.aio.AioRpcError):  # there is no such method
                    await method(b"")

        calling = asyncio.create_task(call())
        for _ in range(20):
            # To set the user, even to the same one, it has to be forked off.
            begin = partial(subprocess.run, ["true"], user=os.geteuid(), check=False)
            assert (await asyncio.to_thread(begin)).returncode == 0
        calling.cancel()
    await server.stop(None)
