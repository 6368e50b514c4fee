"""Whose turn it is among addresses that are all usable."""

from __future__ import annotations

from collections.abc import Sequence

from outbox.transports.addresses.address import Address, Found

_SCALE = 64
"""An address of weight 0 gets a turn for that many of one with weight 1, since some turns tell that
it is there."""


class Rotation:
    """A smooth round robin by weight: each address gets a credit at each turn, the richest is taken
    and pays what all of them got. Two of weight 2 and 1 come as A B A, and never as A A B."""

    def __init__(self) -> None:
        self._credits: dict[Address, int] = {}

    def next_of(self, usable: Sequence[Found]) -> Found:
        """The one whose turn it is, among those with the lowest priority; there is at least one."""
        first = min(it.priority for it in usable)
        among = [it for it in usable if it.priority == first]
        weights = {it.address: it.weight * _SCALE or 1 for it in among}
        if len(set(weights.values())) == 1:
            weights = dict.fromkeys(weights, 1)
        # Those that are away meanwhile begin anew, so that they do not come back as the richest.
        credits = {it: self._credits.get(it, 0) + weight for it, weight in weights.items()}
        taken = max(among, key=lambda it: credits[it.address])
        credits[taken.address] -= sum(weights.values())
        self._credits = credits
        return taken
