"""What came of it: what was committed, what was sent under which leases, what came, what took
effect; and whether that is as promised."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.numbers.crowd import Crowd
from tests.support.numbers.numbers import counter, taken


@dataclass
class Findings:
    """The findings of one run."""

    committed: Mapping[str, int]
    """The last number of each key."""
    effects: Mapping[str, Sequence[int]]
    """The numbers of each key, in the order in which they took effect."""
    deliveries: Sequence[Mapping[str, Any]]
    """In the order in which they began."""
    arrivals: Sequence[tuple[str, int]]
    """In the order in which they came."""

    @property
    def numbers(self) -> int:
        """How many numbers were committed."""
        return sum(self.committed.values())

    @property
    def came_again(self) -> int:
        """How many arrivals were not the first of their number."""
        return len(self.arrivals) - len({*self.arrivals})

    @property
    def lost(self) -> int:
        """How many committed numbers took no effect."""
        return sum(
            len({*range(1, last + 1)} - {*self.effects.get(key, ())})
            for key, last in self.committed.items()
        )

    @property
    def twice(self) -> int:
        """How many effects were not the first of their number."""
        return sum(len(them) - len({*them}) for them in self.effects.values())

    @property
    def uncommitted(self) -> int:
        """How many effects were of numbers that were never committed."""
        return sum(
            number > self.committed.get(key, 0)
            for key, them in self.effects.items()
            for number in them
        )

    @property
    def inversions(self) -> int:
        """How many effects came before the effect of a smaller number of their key."""
        return sum(map(_inversions, self.effects.values()))

    @property
    def first_arrivals_inverted(self) -> int:
        """The same of those that came for the first time, before any inbox sorted them out."""
        firsts: defaultdict[str, list[int]] = defaultdict(list)
        for key, number in dict.fromkeys(self.arrivals):
            firsts[key].append(number)
        return sum(map(_inversions, firsts.values()))

    @property
    def late(self) -> int:
        """How many deliveries began when the relay's lease was over."""
        return sum(it["late"] >= 0 for it in self.deliveries)

    @property
    def unleased(self) -> int:
        """How many deliveries had a message of a bucket that was not leased."""
        return sum(any(epoch < 0 for _, epoch in it["epochs"]) for it in self.deliveries)

    @property
    def overtaken(self) -> int:
        """How many deliveries began after another relay had sent from the same bucket under a
        later lease."""
        latest: Counter[int] = Counter()
        found = 0
        for each in self.deliveries:
            found += any(epoch < latest[bucket] for bucket, epoch in each["epochs"])
            latest.update(
                {bucket: max(0, epoch - latest[bucket]) for bucket, epoch in each["epochs"]}
            )
        return found

    @property
    def wrong(self) -> Mapping[str, int]:
        """All that must be 0."""
        return {
            "lost": self.lost,
            "twice": self.twice,
            "of what was rolled back": self.uncommitted,
            "inversions of a key": self.inversions,
            "inversions of first arrivals": self.first_arrivals_inverted,
            "deliveries begun on an expired lease": self.late,
            "deliveries from a bucket without a lease": self.unleased,
            "deliveries under an overtaken lease": self.overtaken,
        }


def _inversions(numbers: Sequence[int]) -> int:
    return sum(later < earlier for earlier, later in pairwise(numbers))


async def effects_of(engine: AsyncEngine) -> Mapping[str, Sequence[int]]:
    """The numbers of each key that took effect, in their order."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    wanted = select(taken.c.name, taken.c.number).order_by(taken.c.position)
    async with engine.connect() as connection:
        for name, number in await connection.execute(wanted):
            found[name].append(number)
    return found


async def findings_of(crowd: Crowd) -> Findings:
    """What came of it so far."""
    async with crowd.sending.connect() as connection:
        rows = await connection.execute(select(counter.c.name, counter.c.number))
        committed = {name: number for name, number in rows}
    arrived = _lines(crowd.notes.glob("arrived-*"))
    return Findings(
        committed,
        await effects_of(crowd.receiving),
        _lines(crowd.notes.glob("sent-*")),
        [(key, number) for line in arrived for key, number in line["numbers"]],
    )


def _lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The lines of these files, in the order of their times."""
    lines = (json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines())
    return sorted(lines, key=lambda it: it["at"])


def report(title: str, seed: int, seconds: float, crowd: Crowd, found: Findings) -> str:
    """What a person reads of it."""
    faults = ", ".join(f"{number} x {kind}" for kind, number in sorted(crowd.faults.items()))
    lines = (
        f"relays under faults, {title}: {seconds:.0f} s, seed {seed}",
        f"  faults: {faults}",
        f"  transactions: {crowd.committed:,} committed, {crowd.rolled_back:,} rolled back",
        f"  messages: {found.numbers:,}, in {len(found.deliveries):,} deliveries",
        f"  arrivals: {len(found.arrivals):,}, of which {found.came_again:,} came again",
        *(f"  {what}: {number}" for what, number in found.wrong.items()),
    )
    return "\n".join(lines) + "\n"
