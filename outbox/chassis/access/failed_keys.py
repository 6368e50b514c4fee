"""The wrong keys of each peer: after so many in a minute it has to wait."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from outbox.chassis.access.peers import network_of

ALLOWED = 10
"""Wrong keys of one peer within a window."""
WINDOW = 60.0
"""Seconds."""
REMEMBERED = 4096
"""The most peers that are remembered; beyond it, those with the oldest last failure are
forgotten."""


class Failures:
    """The failures of the last minute. Takes no more memory than REMEMBERED times ALLOWED times."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        allowed: int = ALLOWED,
        window: float = WINDOW,
        remembered: int = REMEMBERED,
    ) -> None:
        self._monotonic = monotonic
        self._allowed = allowed
        self._window = window
        self._remembered = remembered
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, peer: str | None) -> None:
        """Count one more failure of the peer."""
        key = network_of(peer)
        self._times.setdefault(key, deque(maxlen=self._allowed)).append(self._monotonic())
        self._times.move_to_end(key)
        if len(self._times) > self._remembered:
            self._times.popitem(last=False)

    def wait(self, peer: str | None) -> float:
        """Seconds until it may try again; 0 where it may now."""
        times = self._times.get(network_of(peer))
        if times is None or len(times) < self._allowed:
            return 0.0
        return max(0.0, times[0] + self._window - self._monotonic())

    def __len__(self) -> int:
        return len(self._times)
