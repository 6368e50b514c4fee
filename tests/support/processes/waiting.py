"""Bounded waits for real processes, and free ports for them.

A test of the project's own code needs neither: it advances the FakeClock, or awaits a signal.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import inspect
import itertools
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

BUSY = 3.0
"""How many times as long a wait may take on a machine that has much else to do. A deadline is there
to end what hangs; how busy the machine is decides no test."""
RARELY = 600.0
"""Seconds between the looks of what is to be woken: longer than any test waits. What comes within a
test did not come by such a look."""
_PAUSE = 0.02  # seconds between two looks
_FIRST_PORT, _PORTS = 10_000, 10_000
_numbers = itertools.count(os.getpid() * 997)  # processes look in different places first


def free_port(in_a_row: int = 1) -> int:
    """A port of 127.0.0.1 at which no process listens, another one at each call; or the first of
    so many ports in a row.

    They belong to this process until it ends: no other test process is given them, and no client's
    connection takes them, since they are below the ports that systems give to those. So a server
    that a test kills finds its port free when it starts again, and no other answers meanwhile.
    """
    row: list[int] = []
    for number in itertools.islice(_numbers, _PORTS):
        port = _FIRST_PORT + number % _PORTS
        if port == _FIRST_PORT or not (_is_ours(port) and _is_free(port)):
            row = []
            continue
        row.append(port)
        if len(row) == in_a_row:
            return row[0]
    raise AssertionError("all ports for tests are taken")


def _is_ours(port: int) -> bool:
    """Whether this process holds the port's byte of the file that all test processes lock."""
    try:
        fcntl.lockf(_ports_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@functools.cache
def _ports_file() -> int:
    """Open for ever: a process that closes it once gives back all that it holds."""
    path = Path(tempfile.gettempdir()) / f"sagabox-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(predicate: Callable[[], object], deadline: float = 10.0, what: str = "") -> None:
    """Return as soon as `predicate()` is true. `deadline` is in seconds of a machine that has
    nothing else to do; after `BUSY` times as many the test fails, and names `what` was waited for.
    """
    deadline *= BUSY
    until = time.monotonic() + deadline
    while not predicate():
        _still_in_time(until, deadline, what or _name(predicate))
        time.sleep(_PAUSE)  # another process or thread is waited for, and the deadline bounds it


async def until(
    predicate: Callable[[], object | Awaitable[object]], deadline: float = 10.0, what: str = ""
) -> None:
    """The same for a coroutine: the event loop runs on, and `predicate` may be `async`."""
    deadline *= BUSY
    end = time.monotonic() + deadline
    while True:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        _still_in_time(end, deadline, what or _name(predicate))
        await asyncio.sleep(_PAUSE)


def _still_in_time(until: float, deadline: float, what: str) -> None:
    assert time.monotonic() < until, f"{what}: not within {deadline:g} s"


def _name(predicate: object) -> str:
    return getattr(predicate, "__qualname__", repr(predicate))
