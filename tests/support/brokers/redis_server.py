"""A real Redis on loopback, with its data in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.processes.freezing import freeze
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, wait_until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
"""What the adapter asks for. With these, what Redis has confirmed survives its death."""


def redis_server() -> str:
    """Where the program is. Skips the test where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed; `.ci/run` installs Debian's package")
    return found


class RedisServer:
    """One server. `options` are those of its command line; `tls` stands for the port over TLS, of
    which the options are to say more."""

    def __init__(self, *options: str, durable: bool = True, tls: bool = False) -> None:
        self._program = redis_server()
        self._folder = Path(tempfile.mkdtemp(prefix="sagabox-redis-"))
        guardian().entrust_folder(self._folder)
        self._options = (*(DURABLE if durable else ()), *options)
        self._tls = tls
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, access: str = "", database: int = 0, query: str = "") -> str:
        """Its address, with `access` as `user:secret`."""
        scheme = "rediss" if self._tls else "redis"
        at = f"{access}@" if access else ""
        return f"{scheme}://{at}127.0.0.1:{self.port}/{database}{f'?{query}' if query else ''}"

    def start(self) -> None:
        """Start it, with the data that it had. Returns once it takes connections."""
        port = ("--tls-port", str(self.port), "--port", "0")
        command = [
            self._program,
            *("--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
            *(port if self._tls else ("--port", str(self.port))),
            *self._options,
        ]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        guardian().entrust_process(process.pid)
        self._process = process
        wait_until(lambda: self._is_up(process), what="Redis is up")

    def kill(self) -> None:
        """End it with SIGKILL; the data stay, for `start()`. It may be frozen, or ended already."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(10)
        guardian().release_process(self._process.pid)
        self._process = None

    def freeze(self) -> None:
        """From now on it says nothing; its connections stay."""
        assert self._process is not None, "it is not running"
        freeze(self._process.pid)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good, and remove its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def restore(self) -> None:
        """Whatever happened to it, it is there again."""
        if self._process is None:
            self.start()
        else:
            self.thaw()

    def log(self) -> str:
        """What it has written."""
        return (self._folder / "log").read_text("utf-8", "replace")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it is not running"
        os.kill(self._process.pid, number)

    def _is_up(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"Redis ended: {self.log()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@asynccontextmanager
async def a_redis(
    *options: str, durable: bool = True, tls: bool = False
) -> AsyncIterator[RedisServer]:
    """A server for the block."""
    server = await asyncio.to_thread(lambda: RedisServer(*options, durable=durable, tls=tls))
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)


def in_a_thread(act: Callable[[], None]) -> Callable[[], asyncio.Future[None]]:
    """The same without a block of the event loop."""
    return lambda: asyncio.ensure_future(asyncio.to_thread(act))
