"""A real RabbitMQ for tests: its own folder, its own ports on loopback, ended with the test run."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.checkout import CERTIFICATE
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, wait_until

_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_DEADLINE = 90.0  # seconds for a start, on a machine that has much to do
_COOKIE = "tests"
_CONFIGURATION = """
listeners.tcp.1 = 127.0.0.1:{port}
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {certificate}
ssl_options.verify = verify_none
log.console = true
log.console.level = info
log.file = false
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 1MB
raft.wal_max_size_bytes = 8000000
"""


def _programs() -> Path:
    """The script that starts a server. Skips the test where something is missing."""
    needed = ("erl", "epmd", "erl_call")
    if not _SCRIPT.exists() or not all(shutil.which(it) for it in needed):
        pytest.skip("RabbitMQ is not installed; `.ci/run` installs Debian's rabbitmq-server")
    return _SCRIPT


class RabbitServer:
    """One running node with the user guest, password guest."""

    def __init__(self) -> None:
        self._script = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="sagabox-rabbitmq-"))
        guardian().entrust_folder(self._folder)
        self.port, self.tls_port = free_port(), free_port()
        self._distribution, self._names = free_port(), free_port()
        self._name_server: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        text = _CONFIGURATION.format(
            port=self.port, tls_port=self.tls_port, certificate=CERTIFICATE
        )
        (self._folder / "rabbitmq.conf").write_text(text, "utf-8")
        (self._folder / "plugins").write_text("[].", "utf-8")
        (self._folder / "environment").touch()
        self.start()

    def url(self, options: str = "", *, user: str = "guest:guest", vhost: str = "") -> str:
        """Its address, as settings have it."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{vhost}?{options}"

    @property
    def pid(self) -> int:
        """The process id of the node. Raises RuntimeError where it is not running."""
        if self._process is None:
            raise RuntimeError("the RabbitMQ server is stopped; start() starts it")
        return self._process.pid

    def start(self) -> None:
        """Start it, or start it again with all that it had. Returns when it takes connections."""
        if self._name_server is None:
            # Else the node would start one for the whole machine, which stays.
            names = ["epmd", "-port", str(self._names), "-address", "127.0.0.1"]
            self._name_server = self._spawn(names, "names.log")
        process = self._process = self._spawn([str(self._script)], "server.log")
        wait_until(
            lambda: process.poll() is not None or "Server startup complete" in self.log(),
            _DEADLINE,
            what="the start of RabbitMQ",
        )
        if process.poll() is not None:
            raise RuntimeError(f"RabbitMQ does not start:\n{self.log()[-5000:]}")
        # Of a quorum queue that has one server alone, RabbitMQ 3.10 sometimes finds no leader for
        # ever after a kill, where clients come at once. Others would vote; so it is asked again.
        self.run(
            "[catch ra:trigger_election(amqqueue:get_pid(Q)) || Q <- rabbit_amqqueue:list(), "
            "amqqueue:get_type(Q) =:= rabbit_quorum_queue]"
        )

    def kill(self) -> None:
        """End the node with SIGKILL, and return when it is gone."""
        _end(self._process)
        self._process = None

    def close(self) -> None:
        """End it for good, and remove its folder."""
        _end(self._process)
        _end(self._name_server)
        self._process = self._name_server = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What the node has written since its last start."""
        return (self._folder / "server.log").read_text("utf-8", "replace")

    def run(self, code: str) -> str:
        """Let the node run that Erlang code; its value."""
        command = ["erl_call", "-address", f"127.0.0.1:{self._distribution}", "-c", _COOKIE, "-e"]
        told = subprocess.run(
            command,
            input=f"{code}.\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env=self._environment(),
        )
        assert told.stdout.startswith("{ok, "), f"{code}: {told.stdout}{told.stderr}"
        return told.stdout.removeprefix("{ok, ").removesuffix("}")

    def add_user(self, name: str, rights: str | None = ".*", vhost: str = "/") -> None:
        """A user whose password is its name, with these rights to configure, write and read."""
        self.run(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{name}">>, <<"test">>)')
        if rights is not None:
            names = ", ".join(f'<<"{it}">>' for it in (name, vhost, rights, rights, rights, "test"))
            self.run(f"rabbit_auth_backend_internal:set_permissions({names})")

    def _environment(self) -> dict[str, str]:
        at = self._folder
        ours = {
            "HOME": at,
            "ERL_EPMD_PORT": self._names,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution,
            "RABBITMQ_CONFIG_FILE": at / "rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": at / "environment",
            "RABBITMQ_ENABLED_PLUGINS_FILE": at / "plugins",
            "RABBITMQ_ADVANCED_CONFIG_FILE": at / "advanced",
            "RABBITMQ_FEATURE_FLAGS_FILE": at / "flags",
            "RABBITMQ_GENERATED_CONFIG_DIR": at / "generated",
            "RABBITMQ_LOG_BASE": at / "log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": at / "data",
            "RABBITMQ_PID_FILE": at / "pid",
            "RABBITMQ_SCHEMA_DIR": at / "schema",
            # So the script becomes the node, in place of waiting for it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1} "
                f"-setcookie {_COOKIE} +S 2:2 +A 4"
            ),
        }
        others = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        return others | {name: str(value) for name, value in ours.items()}

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self._folder / log).open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment(),
                # A session of its own: Ctrl-C is for the tests, which then end the server.
                start_new_session=True,
            )
        guardian().entrust_process(process.pid)
        return process


@functools.cache
def shared_rabbit() -> RabbitServer:
    """The one of this test process, started when it is first asked for: that takes seconds. Each
    test has a prefix of its own there. No other process uses it, so that a test may kill it, or let
    it be short of memory, if it leaves it well."""
    return RabbitServer()


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        guardian().release_process(process.pid)
