"""A real PgBouncer on loopback, before a test's server, for one test alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases.binaries import ordinary_user
from tests.support.databases.postgres import PostgresServer
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

_ATTEMPTS = 5


def pgbouncer() -> str:
    """Where it is. Skips the test where there is none."""
    # Debian's is where only administrators look.
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        pytest.skip("PgBouncer is not installed; `.ci/run` installs Debian's package pgbouncer")
    return found


@asynccontextmanager
async def pooled(
    server: PostgresServer, folder: Path, mode: str = "transaction"
) -> AsyncIterator[int]:
    """A PgBouncer before all databases of the server, in that `pool_mode`; gives its port. What
    asks next gets the connection that has rested longest."""
    program = pgbouncer()
    folder.mkdir()
    for _ in range(_ATTEMPTS):
        port = free_port()
        process = _start(program, folder, _configuration(server, port, mode))
        try:
            await until(partial(_is_up_or_ended, process, port), what="PgBouncer is up")
            if process.poll() is None:
                break
        except BaseException:
            process.kill()
            raise
    else:
        pytest.fail(f"PgBouncer did not start: {(folder / 'log').read_text('utf-8')}")
    try:
        yield port
    finally:
        process.kill()  # it would wait for clients; there is nothing to lose
        await asyncio.to_thread(process.wait, 10)
        guardian().release_process(process.pid)


def _start(program: str, folder: Path, configuration: str) -> subprocess.Popen[bytes]:
    # It refuses to run as root, and an ordinary user may not see the test's folder: it is given
    # what it reads as open files.
    path = folder / "pgbouncer.ini"
    path.write_text(configuration, encoding="ascii")
    user = ordinary_user()
    identity: dict[str, Any] = {} if user is None else {"user": user, "extra_groups": []}
    with path.open("rb") as read, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-q", "/dev/stdin"],
            stdin=read,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **identity,
        )
    guardian().entrust_process(process.pid)
    return process


def _is_up_or_ended(process: subprocess.Popen[bytes], port: int) -> bool:
    with socket.socket() as client:
        return process.poll() is not None or client.connect_ex(("127.0.0.1", port)) == 0


def _configuration(server: PostgresServer, port: int, mode: str) -> str:
    return f"""\
[databases]
* = host=127.0.0.1 port={server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
server_round_robin = 1
max_client_conn = 200
"""
