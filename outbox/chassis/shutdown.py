"""The signal to long answers that the service is about to stop.

A server ends its lifespan only after the last answer. So an endless answer, such as a stream of
events, has to learn of the stop itself.
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
    """A context in which SIGTERM and SIGINT set `stopping` and then do what they did before.

    For the event loop of the main thread; elsewhere no signals arrive, and nothing is done. A
    signal without a handler is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def heard(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, with all its answers
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
            # A handler that was put in its place since then stays.
            if signal.getsignal(number) is heard:
                signal.signal(number, handler)
