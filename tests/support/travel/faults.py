"""Random faults of the processes of `examples/travel`, while trips are booked."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from outbox.testing.provider.modes import KINDS, Modes
from tests.support.travel.dying import POINTS, ROOMS
from tests.support.travel.running import NAMES, RunningTravel

_CARDS = ("1234", "1234", "1234", "5678")  # the last one bears too little
_AT_ONCE = 6  # people who book
_REST = 1.0  # seconds between two trips of one of them, on average
_PAUSE = 0.5  # seconds between two faults, on average
_COUNTED = ("fail_before", "die_before", "fail_after", "cut_after", "die_after", "refuse")


class Faults:
    """The faults of one run of a test. Every process that dies is started again while they are
    `kept`."""

    def __init__(self, travel: RunningTravel, chance: Random) -> None:
        self.injected: Counter[str] = Counter()
        self._travel = travel
        self._chance = chance
        self._crashes: dict[str, str] = {}
        """The crash point at which a process is to die once it is started again."""
        self._armed: set[str] = set()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Within the block, start each process again that dies."""
        keeping = [asyncio.create_task(self._keep(name)) for name in NAMES]
        try:
            yield
        finally:
            for each in keeping:
                each.cancel()
            for each in keeping:
                with contextlib.suppress(asyncio.CancelledError):
                    await each

    async def play(self, trips: int) -> None:
        """Let so many trips be booked while things go wrong."""
        left = iter(range(trips))

        async def person() -> None:
            for _ in left:
                card, room = self._chance.choice(_CARDS), self._chance.choice(ROOMS)
                await self._travel.book(card, room=room)
                await asyncio.sleep(self._chance.uniform(0, 2 * _REST))

        people = asyncio.gather(*(person() for _ in range(_AT_ONCE)))
        while not people.done():
            await self._inject()
            await asyncio.wait({people}, timeout=self._chance.uniform(0, 2 * _PAUSE))
        await people

    async def heal(self) -> None:
        """Let nothing go wrong any more."""
        self._crashes.clear()
        for name in [*self._armed]:
            self._travel.send_kill(name)
        for kind in KINDS:
            await self._let(kind, **dict.fromkeys((*_COUNTED, "reject"), 0), **_CALM)

    def text(self) -> str:
        """What was done, and how the trips have ended."""
        ends = Counter(str(it.run) for it in self._travel.books.facts().values())
        stuck = Counter(it.stuck for it in self._travel.books.facts().values() if it.stuck)
        counted = [*sorted(ends.items()), *sorted(stuck.items()), *sorted(self.injected.items())]
        return "\n".join(f"{number:8,} {name}" for name, number in counted)

    async def _inject(self) -> None:
        chance, name = self._chance, self._chance.choice(NAMES)
        match chance.choice(("kill", "crash", "mode", "mode", "slow", "webhooks")):
            case "crash" if name in POINTS:
                point = chance.choice(POINTS[name])
                self._crashes[name] = f"{point}:{chance.randint(1, 4)}"
                self._travel.send_kill(name)
                self.injected[f"{name} dies at {point!r}"] += 1
            case "kill" | "crash":
                self._travel.send_kill(name)
                self.injected[f"{name} is killed"] += 1
            case "mode":
                kind, mode = chance.choice(KINDS), chance.choice(_COUNTED)
                await self._let(kind, **{mode: chance.randint(1, 2)})
                self.injected[f"the provider: {kind}, {mode}"] += 1
            case "slow":
                kind = chance.choice(KINDS)
                await self._let(kind, slow=chance.choice((0, 0.2, 1.5, 6)))
                self.injected[f"the provider: {kind}, slow"] += 1
            case _:
                await self._let(
                    "orders",
                    webhook_times=chance.randint(1, 3),
                    webhook_after=chance.choice((0, 0.1, 2)),
                    webhook_backwards=chance.random() < 0.5,
                    reject=chance.randint(0, 1),
                )
                self.injected["the provider: webhooks otherwise"] += 1

    async def _let(self, kind: str, **modes: object) -> None:
        await self._travel.insist(lambda: self._travel.let(kind, **modes))

    async def _keep(self, name: str) -> None:
        while True:
            await self._travel.until_dead(name)
            crash = self._crashes.pop(name, None)
            self._armed.discard(name)
            if crash is not None:
                self._armed.add(name)
            await self._travel.start(name, crash=crash)


_CALM = {
    name: getattr(Modes(), name)
    for name in ("slow", "webhook_times", "webhook_after", "webhook_backwards")
}
