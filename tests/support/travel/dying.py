"""Deaths of the processes of `examples/travel` in and around calls to the outside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from outbox.testing.provider.modes import KINDS, Kind
from tests.support.travel.running import RunningTravel

ROOMS = ("suite", "double")
"""The kinds of rooms that the trips are for, by turns: one that is refunded, one that is booked."""
_PATIENCE = 4.0  # seconds for one trip to get its victim to the point


@dataclass(frozen=True)
class AtPoint:
    """The death of a service at a crash point, when it gets there for the `hit`-th time."""

    point: str
    hit: int = 1


@dataclass(frozen=True)
class OfProvider:
    """The death of the provider in a request of that kind: `die_before` its effect or `die_after`
    it."""

    kind: Kind
    fault: str = "die_after"


Death = AtPoint | OfProvider

_CALLS = (
    "outside: after before, before the call",
    "outside: after the call, before its result",
    "outside: after its result, before the reply",
)
_COMMITS = (
    "inbox: before commit",
    "inbox: after commit, before reply",
    "outbox: after drain, before commit",
    "outbox: after commit, before bell",
)
POINTS = {
    "payment": (*_CALLS, *_COMMITS),
    "flight": (*_CALLS, *_COMMITS, "inbox: completed, before commit"),
}
"""The crash points of each service that makes calls to the outside."""

EVERY_DEATH: dict[str, Sequence[Death]] = {
    # In a trip that is refunded the second call is the refund, the third one is of another trip.
    **{
        name: [AtPoint(it, hit) for it in all_ for hit in (1, 2, 3)]
        for name, all_ in POINTS.items()
    },
    "provider": [OfProvider(kind, it) for kind in KINDS for it in ("die_before", "die_after")],
}
"""All of them, at the crash points that there are and at the provider."""


async def die(travel: RunningTravel, victim: str, deaths: Sequence[Death]) -> None:
    """Let the running process die of all these, one after another, while trips are booked; it is
    started again after each."""
    rooms = cycle(ROOMS)
    for death in deaths:
        match death:
            case AtPoint(point, hit):
                await travel.kill(victim)
                await travel.start(victim, crash=f"{point}:{hit}")
            case OfProvider(kind, fault):
                await travel.let(kind, **{fault: 1})
        dead = asyncio.create_task(travel.until_dead(victim))
        async with asyncio.timeout(180):  # others may be dead meanwhile, on whom its trip depends
            while not dead.done():
                await travel.book(room=next(rooms))
                await asyncio.wait({dead}, timeout=_PATIENCE)
        await dead
        await travel.start(victim)
