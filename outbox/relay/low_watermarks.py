"""A hint that spares the relay the dead rows at the head of its index: nothing is left below it.

Deleted rows stay in PostgreSQL's index until they are vacuumed, which a long transaction anywhere
in the database prevents. Reading from a floor steps over them. It must never step over a row that
is still to appear: a number drawn from the sequence early may commit late. So a floor only rises to
what `Store.settled_mark` has proven, and everything is looked at from 0 now and then all the same.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class LowWatermarks:
    """The floor of each bucket of one destination."""

    def __init__(self) -> None:
        self._floors: dict[int, int] = {}
        self._proven = 0

    @property
    def proven(self) -> int:
        """No row with a `seq` up to this one can appear any more. Read it before fetching."""
        return self._proven

    def prove(self, seq: int) -> None:
        """Every transaction that could have drawn a number up to `seq` has ended."""
        self._proven = max(self._proven, seq)

    def of(self, buckets: Iterable[int]) -> dict[int, int]:
        """The floors of these buckets, in their order."""
        return {bucket: self._floors.get(bucket, 0) for bucket in buckets}

    def reset(self, buckets: Iterable[int]) -> None:
        """Look at these from the beginning: rows have come back, or others owned them."""
        for bucket in buckets:
            self._floors.pop(bucket, None)

    def sweep(self) -> None:
        """Look at everything from the beginning."""
        self._floors.clear()

    def raise_to(
        self, proven: int, reached: Mapping[int, int | None], left: Mapping[int, int]
    ) -> None:
        """After a round: `proven` is what was proven *before* its fetch, `reached` how far it got
        in each bucket (None: to the end), `left` the lowest `seq` that stayed in the outbox."""
        if proven == 0:
            return  # nothing can rise
        for bucket, last in reached.items():
            floor = proven if last is None else min(proven, last)
            if bucket in left:
                floor = min(floor, left[bucket] - 1)
            self._floors[bucket] = max(self._floors.get(bucket, 0), floor)
