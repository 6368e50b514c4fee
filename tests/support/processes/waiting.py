"""Bounded waits for real processes, and free ports for them.

A test of the project's own code needs neither: it advances the FakeClock, or awaits a signal.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable

_PAUSE = 0.02  # seconds between two looks
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at, another one at each call.

    Between this call and the use of the port somebody else may take it: whoever starts a server
    that must not fail tries again with another port.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def wait_until(predicate: Callable[[], object], deadline: float = 10.0, what: str = "") -> None:
    """Return as soon as `predicate()` is true; fail the test after `deadline` seconds.

    `what` names in the failure what was waited for.
    """
    until = time.monotonic() + deadline
    while not predicate():
        _still_in_time(until, deadline, what or _name(predicate))
        time.sleep(_PAUSE)  # another process or thread is waited for, and the deadline bounds it


async def until(
    predicate: Callable[[], object | Awaitable[object]], deadline: float = 10.0, what: str = ""
) -> None:
    """The same for a coroutine: the event loop runs on, and `predicate` may be `async`."""
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
