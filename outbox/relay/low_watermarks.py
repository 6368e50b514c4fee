"""The low watermark of each bucket: every row at or below it is gone, so the fetch starts above it.

Deleted rows stay in PostgreSQL's index until they are vacuumed, which a long transaction anywhere
in the database prevents. A fetch from a floor steps over them. It must never step over a row that
is still to appear: a number drawn from the sequence early may commit late. So a floor only rises to
the mark that `Store.settled_mark` has proven, and the relay sweeps everything from 0 now and then
all the same.

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
        """Note that every transaction that could have drawn a number up to `seq` has ended."""
        self._proven = max(self._proven, seq)

    def of(self, buckets: Iterable[int]) -> dict[int, int]:
        """The floors of these buckets, in their order."""
        return {bucket: self._floors.get(bucket, 0) for bucket in buckets}

    def reset(self, buckets: Iterable[int]) -> None:
        """Fetch these from the beginning again: rows have come back, or another owner had them."""
        for bucket in buckets:
            self._floors.pop(bucket, None)

    def raise_to(
        self, proven: int, reached: Mapping[int, int | None], left: Mapping[int, int]
    ) -> None:
        """Raise the floors after a round: `proven` is the proven `seq` from *before* its fetch,
        `reached` how far it got in each bucket (None: to the end), `left` the lowest `seq` that
        stayed in the outbox."""
        for bucket, last in reached.items():
            floor = proven if last is None else min(proven, last)
            if bucket in left:
                floor = min(floor, left[bucket] - 1)
            self._floors[bucket] = max(self._floors.get(bucket, 0), floor)
