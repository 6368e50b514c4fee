"""The leases that a holder gives back, while a renewal of them may be under way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from outbox.coordination.leases import Leases


class GivenBack:
    """The leases that a holder has given back, or is about to, by their epochs.

    A renewal that is under way meanwhile tells of them once more, and must not bring them back. A
    lease that is taken again has another epoch.
    """

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}

    def missing_in(self, leases: Leases) -> Leases:
        """These leases without those that were given back."""
        kept = {b: e for b, e in leases.epochs.items() if self._epochs.get(b) != e}
        return leases if len(kept) == len(leases.epochs) else Leases(kept, leases.until)

    @contextmanager
    def giving(self, leases: Leases, buckets: Collection[int]) -> Iterator[Leases]:
        """The leases without these buckets, which the block gives back. Where it fails, a renewal
        tells whether they are still its own."""
        self._epochs |= {b: e for b, e in leases.epochs.items() if b in buckets}
        try:
            yield self.missing_in(leases)
        except BaseException:
            self._epochs.clear()
            raise
