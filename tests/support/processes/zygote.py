"""Services that start in a moment: forked from a process that has imported everything already.

Each is a process of its own, with the command line, environment and log that its `Spec` names, and
ends as any other; only the second and a half of imports is done once instead of at every start. Run
as a program, this is the process that forks.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from asyncio.subprocess import Process
from importlib import import_module
from io import BufferedRWPair
from typing import Any, NoReturn, cast

from orchestrator.cli.processes import lifeline
from orchestrator.cli.processes.child import Child, Spec
from tests.support.checkout import ROOT

_IMPORTED = (
    *("uvicorn", "uvloop", "asyncpg", "aiosqlite", "uvicorn.protocols.http.httptools_impl"),
    *(
        "orchestrator.cli",
        "orchestrator.cli.terminal.log_format",
        "orchestrator.cli.processes.starting",
    ),
    *("orchestrator.app", "orchestrator.sagas.delete_article", "articles.app", "comments.app"),
    "outbox.testing.provider.__main__",
    # What a service imports while it starts.
    *("pydantic.v1", "structlog.dev", "rich.traceback", "httpcore", "h11", "certifi"),
    *("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "outbox.chassis.http.bounded_http"),
    # What the applications of the tests import besides.
    *("orchestrator.embedding.attach", "tests.support.orchestrator.orchestrating"),
)
_LOOK = 0.02  # seconds between two looks whether a child has ended
_PROGRAMS = {
    "orchestrator.cli": "orchestrator.cli",
    "uvicorn": "uvicorn",
    "outbox.testing.provider": "outbox.testing.provider.__main__",
}
"""What may stand behind `python -m`, and the module whose `main` that calls."""


async def start(spec: Spec) -> Child:
    """As `Child.start`, for the command of one of `_PROGRAMS`."""
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    return Child(spec, cast(Process, _zygote().fork(spec)))


class _Forked:
    """What `Child` wants of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    async def wait(self) -> int:
        while self.returncode is None:  # noqa: ASYNC110 - a thread sets it, in no event loop
            await asyncio.sleep(_LOOK)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)


class _Zygote:
    """The process that forks, as this process sees it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        self._pids: list[int] = []
        self._told = threading.Condition()
        self._children: dict[int, _Forked] = {}
        self._reading = threading.Thread(target=self._read, name="zygote", daemon=True)
        self._reading.start()
        atexit.register(self.close)

    def fork(self, spec: Spec) -> _Forked:
        """Start the service. Raises RuntimeError where the spec is of something else."""
        match [it for it in spec.command[1:] if it != "-P"]:
            case ["-m", module, *arguments] if module in _PROGRAMS:
                pass
            case _:
                raise RuntimeError(f"{spec.command} is none of {', '.join(_PROGRAMS)}")
        order = {
            "module": module,
            "arguments": arguments,
            "environment": dict(spec.environment),
            "log": str(spec.log),
        }
        with self._told:
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            if not self._told.wait_for(lambda: self._pids, timeout=60):
                raise RuntimeError("the process that forks services does not answer")
            return self._children[self._pids.pop()]

    def close(self) -> None:
        """End it, and with it what is left of its children."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait(10)
        self._reading.join(10)
        self._socket.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                told = json.loads(line)
                with self._told:
                    pid = told["pid"]
                    if "code" in told:
                        self._children[pid].returncode = told["code"]
                    else:
                        self._children[pid] = _Forked(pid)
                        self._pids.append(pid)
                    self._told.notify_all()


@functools.cache
def _zygote() -> _Zygote:
    return _Zygote()


# --- The process that forks --------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    for module in _IMPORTED:
        import_module(module)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    with connection, connection.makefile("rwb") as lines:
        while True:
            ready, _, _ = select.select([connection], [], [], _LOOK if children else None)
            if ready:
                line = lines.readline()
                if not line:
                    return
                pid = os.fork()
                if pid == 0:
                    _become(json.loads(line))
                children.add(pid)
                _tell(lines, pid=pid)
            for pid in sorted(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    children.discard(pid)
                    _tell(lines, pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(lines: BufferedRWPair[Any, Any], **what: int) -> None:
    lines.write(json.dumps(what).encode() + b"\n")
    lines.flush()


def _become(order: dict[str, Any]) -> NoReturn:
    """Be that service, to the end."""
    code = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(order["environment"])
        os.environ[lifeline.VARIABLE] = str(os.getppid())
        sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for number in (1, 2):
            os.dup2(log, number)
        os.closerange(3, 256)
        for stream in (sys.stdout, sys.stderr):
            cast(Any, stream).reconfigure(line_buffering=True)
        random.seed()
        _arm()
        import_module("tests.support.processes.preparing").prepare()
        import_module(_PROGRAMS[order["module"]]).main(args=order["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm() -> None:
    """Crash points read their order when they are imported, which was before there was one."""
    crashpoints = import_module("outbox.crashpoints")
    crashpoints.arm(crashpoints._from_environment())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(socket.socket(fileno=int(sys.argv[1])))
