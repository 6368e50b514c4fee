"""The way of calls to the outside in a world, and the troubles on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from orchestrator.testing.virtual.timeline import Timeline
from orchestrator.testing.worlds.participants.effects import Place
from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox.inbox.outside.rules import MARGIN
from outbox.replies import Refused

_STEP = 0.001
_NO = Refused("refused", "the provider was to refuse it in this test")
_SOME_TIME = 5.0


class Caller(Protocol):
    """A process that makes calls."""

    held: int
    """How many of its calls are held up."""

    def is_calling(self, id: str) -> bool:
        """Whether it makes the call of that command."""

    async def give_up(self) -> None:
        """End its calls."""


@dataclass(eq=False)
class _Held:
    caller: Caller
    id: str
    step: str
    go: asyncio.Event = field(default_factory=asyncio.Event)


class Switchboard:
    """Makes the calls of the participants. `cancel` is told the run that an operator cancels;
    `ended` is called after each call that ended after its delivery."""

    def __init__(
        self,
        timeline: Timeline,
        troubles: Troubles,
        cancel: Callable[[str], Awaitable[None]],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        self._ended = ended
        self._timeline = timeline
        self._troubles = troubles
        self._cancel = cancel
        self._held: list[_Held] = []
        self._until_undone: list[_Held] = []

    async def make(
        self,
        caller: Caller,
        id: str,
        place: Place,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        replace: Callable[[], None],
    ) -> object:
        """What the function returns, if nothing else was to happen. `seconds` is its timeout;
        `replace` brings another process in the place of its caller."""
        strikes = partial(self._troubles.strikes, step=place.step, undo=place.is_undo)
        if strikes(Sort.CALL_REFUSED):
            return _NO
        if strikes(Sort.CALL_TAKEN_OVER):
            replace()
            await self._hold(caller, id, place, seconds + MARGIN.total_seconds() + _SOME_TIME)
        elif strikes(Sort.CALL_AFTER_UNDO):
            replace()
            await self._cancel(place.saga_id)
            await self._hold(caller, id, place, None)
        value = await function()
        if strikes(Sort.CALL_UNANSWERED):
            raise ConnectionError("its answer was to be lost in this test")
        if (cancelled := strikes(Sort.CALL_CANCELLED)) or strikes(Sort.CALL_CUT_OFF):
            if cancelled:
                await self._cancel(place.saga_id)
            await self._hold(caller, id, place, seconds)
            raise TimeoutError(f"it was to take longer than its {seconds:g} s in this test")
        return value

    async def undone(self, step: str) -> None:
        """Let the call of that step go on which waited until it was undone."""
        for held in [it for it in self._until_undone if it.step == step]:
            await self._let_go(held)

    async def finish(self) -> None:
        """Let all calls go on."""
        for held in list(self._held):
            await self._let_go(held)

    async def close(self) -> None:
        """End what is still held up."""
        for held in list(self._held):
            self._forget(held)
            await held.caller.give_up()

    async def _hold(self, caller: Caller, id: str, place: Place, seconds: float | None) -> None:
        held = _Held(caller, id, place.step)
        self._held.append(held)
        caller.held += 1
        if seconds is None:
            self._until_undone.append(held)
        else:
            self._timeline.after(seconds, partial(self._let_go, held))
        await held.go.wait()

    async def _let_go(self, held: _Held) -> None:
        if held not in self._held:
            return
        self._forget(held)
        held.go.set()
        while held.caller.is_calling(held.id):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_STEP)
        await self._ended()

    def _forget(self, held: _Held) -> None:
        self._held.remove(held)
        if held in self._until_undone:
            self._until_undone.remove(held)
        held.caller.held -= 1
