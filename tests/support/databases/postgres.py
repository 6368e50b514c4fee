"""A real PostgreSQL server for tests: its own folder, its own port, ended with the test run."""

from __future__ import annotations

import enum
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg
from psycopg import sql

from tests.support.databases import binaries as programs
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, wait_until

_DEADLINE = 30.0  # seconds for a start or a stop
_CONFIGURATION: Mapping[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "wal_level": "logical",
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}


class Stop(enum.Enum):
    """How a server ends; the value is the signal that asks for it."""

    SMART = signal.SIGTERM
    """Waits until every client has left."""
    FAST = signal.SIGINT
    """Ends the clients' transactions, and writes a checkpoint."""
    IMMEDIATE = signal.SIGQUIT
    """Writes nothing more: the next start recovers from the log, as after a crash."""


class PostgresServer:
    """One running server on 127.0.0.1, superuser `postgres`, no password, WAL level `logical`.

    Made with `binaries=` it runs that version, else the newest of the test requirements. `fsync`
    is off unless asked for: an operating system that lives on keeps what was written, so that even
    `kill()` loses nothing. `settings` adds lines to postgresql.conf. Raises RuntimeError with the
    server's log where it does not start.
    """

    def __init__(
        self,
        binaries: programs.Binaries | None = None,
        *,
        fsync: bool = False,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        user = programs.ordinary_user()
        self._identity = _identity(user)
        self._folder = _folder_for(user)
        guardian().entrust_folder(self._folder)
        chosen = binaries or programs.from_wheel()
        if user is not None and not programs.reachable(chosen.folder):
            chosen = programs.copied(chosen, self._folder)
        self._programs = chosen.folder
        self.major = chosen.major
        """The major version, as 18."""
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_run = False
        self._initialise({**_CONFIGURATION, "fsync": "on" if fsync else "off", **(settings or {})})
        self.start()

    @property
    def pid(self) -> int:
        """The process id of the postmaster. Raises RuntimeError where it is not running."""
        if self._process is None:
            raise RuntimeError("the PostgreSQL server is stopped; start() starts it")
        return self._process.pid

    def url(self, name: str = "postgres", driver: str | None = "asyncpg") -> str:
        """The SQLAlchemy URL of a database; `driver=None` gives one without a driver suffix."""
        scheme = "postgresql" if driver is None else f"postgresql+{driver}"
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str = "postgres") -> psycopg.Connection[Any]:
        """A plain connection in autocommit, for what a test does outside the code under test."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=name,
            autocommit=True,
            connect_timeout=10,
        )

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, as a copy of `template` if one is given (without open connections)."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            if self.major >= 15:  # faster than by the log, as long as nothing is flushed
                statement += sql.SQL(" STRATEGY FILE_COPY")
        with self.connect() as connection:
            connection.execute(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database, and with it the connections that others have to it."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def start(self) -> None:
        """Start a stopped or killed server at the same port. Returns when it takes connections."""
        if self._process is not None:
            raise RuntimeError("the PostgreSQL server is running already")
        wait_until(self._attempt, _DEADLINE, what=f"the start of PostgreSQL {self.major}")
        self._has_run = True

    def stop(self, mode: Stop = Stop.FAST) -> None:
        """Stop the server, and return when it has ended. The data stay, for `start()`."""
        self._signal(mode.value)

    def kill(self) -> None:
        """End the postmaster with SIGKILL, as the system does when memory runs out.

        Returns when its children, who end as soon as they notice, have ended too.
        """
        children = psutil.Process(self.pid).children(recursive=True)
        self._signal(signal.SIGKILL)
        _gone, alive = psutil.wait_procs(children, timeout=_DEADLINE)
        if alive:
            raise RuntimeError(f"PostgreSQL {self.major} was killed, and its {alive} live on")

    def close(self) -> None:
        """Stop the server for good and remove its folder."""
        if self._process is not None:
            self.stop(Stop.IMMEDIATE)
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What the server has written since its last start."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _initialise(self, settings: Mapping[str, str | int]) -> None:
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if self._spawn("initdb", "-D", str(self._data), "-U", "postgres", *options).wait(60) != 0:
            raise RuntimeError(f"initdb of PostgreSQL {self.major} failed:\n{self.log()}")
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self._data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _attempt(self) -> bool:
        process = self._spawn("postgres", "-D", str(self._data), "-p", str(self.port))
        guardian().entrust_process(process.pid, signal.SIGQUIT)
        wait_until(
            lambda: process.poll() is not None or self._takes_connections(process.pid),
            _DEADLINE,
            what=f"an answer of PostgreSQL {self.major}",
        )
        if process.poll() is None:
            self._process = process
            return True
        guardian().release_process(process.pid)
        log = self.log()
        if "Address already in use" in log:  # taken between the look and the start
            if not self._has_run:
                self.port = free_port()
            return False
        raise RuntimeError(f"PostgreSQL {self.major} does not start:\n{log}")

    def _takes_connections(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        # A killed server leaves its file behind: the first line tells whose it is.
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the PostgreSQL server is stopped already")
        self._process.send_signal(number)
        try:
            self._process.wait(_DEADLINE)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"PostgreSQL {self.major} did not end within {_DEADLINE:g} s of {number.name}; "
                "a client may still be connected: stop it with Stop.FAST"
            ) from error
        guardian().release_process(self._process.pid)
        self._process = None

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_"))}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [self._programs / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=environment | {"LC_ALL": "C"},
                # A session of its own: Ctrl-C is for the tests, which then stop the server.
                start_new_session=True,
                **self._identity,
            )


def _folder_for(user: str | None) -> Path:
    temporary = Path(tempfile.gettempdir())
    if user is not None and not programs.reachable(temporary):
        temporary = Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="sagabox-postgres-", dir=temporary))
    if user is not None:
        shutil.chown(folder, user)
    return folder


def _identity(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
