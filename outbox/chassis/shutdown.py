"""Tells long answers that the service is about to stop.

A server ends its lifespan only after the last answer. An answer that could go on for ever, such as
a stream of events, has to hear of the signal itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def told_of_signals(stopping: asyncio.Event) -> Iterator[None]:
    """Within it, SIGTERM and SIGINT set `stopping` and then do what they did before.

    For the event loop of the main thread; elsewhere no signals arrive, and nothing is done. A
    signal that nobody handles is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def heard(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(stopping.set)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            # Whoever put another one in its place since then has taken it over.
            if signal.getsignal(number) is heard:
                signal.signal(number, handler)
