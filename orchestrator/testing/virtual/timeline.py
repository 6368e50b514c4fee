"""Virtual time: events in their order, and coroutines that wait for them.

A step runs until it waits for time or for a `Gate`. Any other awaitable (a real database's answer)
is handed on to the event loop that runs the simulation, in which nothing else happens meanwhile;
without any, no event loop is needed.
"""

from __future__ import annotations

import asyncio
import heapq
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

Action = Callable[[], Awaitable[None]]


@dataclass(eq=False)
class Wait:
    """The wait that a step yields, to go on after so many seconds."""

    seconds: float

    def __await__(self) -> Generator[Any, Any, None]:
        yield self


class Gate(asyncio.Event):
    """An Event that a simulated step can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: list[Callable[[], None]] = []

    def on_set(self, call: Callable[[], None]) -> None:
        """Call this once it is set."""
        self._opened.append(call)

    def set(self) -> None:
        super().set()
        opened, self._opened = self._opened, []
        for call in opened:
            call()

    async def wait(self) -> Any:
        while not self.is_set():
            await _Shut(self)
        return True


@dataclass(eq=False)
class _Shut:
    gate: Gate

    def __await__(self) -> Generator[Any, Any, None]:
        yield self


class Timeline:
    """The events to come, in the order of their times; those at one time in the order of their
    making."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the history began."""
        self._due: list[tuple[float, int, Action]] = []
        self._count = 0

    def at(self, time: float, action: Action) -> None:
        """Plan this for that time, or at once where it is past."""
        self._count += 1
        heapq.heappush(self._due, (max(time, self.now), self._count, action))

    def after(self, seconds: float, action: Action) -> None:
        """Plan this for so many seconds from now."""
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    async def next(self, until: float) -> bool:
        """Let the next thing happen. False where there is none before `until`: then it is that
        time."""
        if not self._due or self._due[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now, _, action = heapq.heappop(self._due)
        await action()
        return True


class Step:
    """A coroutine that goes on as its waits end. `done` gets its result, `failed` its error;
    `held_until` tells whether it may go on yet, in seconds of the timeline."""

    def __init__(
        self,
        timeline: Timeline,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        held_until: Callable[[], float],
    ) -> None:
        self._timeline = timeline
        self._coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self._done = done
        self._failed = failed
        self._held_until = held_until

    async def go_on(self) -> None:
        """Run it up to its next wait."""
        if self._coroutine is None:
            return
        if (held := self._held_until()) > self._timeline.now:
            self._timeline.at(held, self.go_on)
            return
        try:
            paused = self._coroutine.send(None)
            while not isinstance(paused, Wait | _Shut):
                try:
                    value = await _by_event_loop(paused)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    paused = self._coroutine.throw(error)
                else:
                    paused = self._coroutine.send(value)
        except StopIteration as end:
            self._coroutine = None
            self._done(end.value)
            return
        except BaseException as error:
            self._coroutine = None
            self._failed(error)
            return
        match paused:
            case Wait(seconds):
                self._timeline.after(seconds, self.go_on)
            case _Shut(gate):
                gate.on_set(lambda: self._timeline.after(0.0, self.go_on))

    def abandon(self) -> None:
        """Abandon the step, since its process died."""
        if self._coroutine is not None:
            self._coroutine.close()
            self._coroutine = None


@types.coroutine
def _by_event_loop(wait: Any) -> Generator[Any, Any, Any]:
    """The result of a wait that the event loop has to serve."""
    return (yield wait)
