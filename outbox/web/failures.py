"""How often each peer showed a wrong key: so many a minute, then it has to wait."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable

ALLOWED = 10
"""Wrong keys of one peer within a window."""
WINDOW = 60.0
"""Seconds."""
REMEMBERED = 4096
"""Peers that are remembered; of more, those whose last failure is longest ago are forgotten."""


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
        """It failed once more."""
        key = _network(peer)
        self._times.setdefault(key, deque(maxlen=self._allowed)).append(self._monotonic())
        self._times.move_to_end(key)
        if len(self._times) > self._remembered:
            self._times.popitem(last=False)

    def wait(self, peer: str | None) -> float:
        """Seconds until it may try again; 0 where it may now."""
        times = self._times.get(_network(peer))
        if times is None or len(times) < self._allowed:
            return 0.0
        return max(0.0, times[0] + self._window - self._monotonic())

    def __len__(self) -> int:
        return len(self._times)


def _network(peer: str | None) -> str:
    """Whom an address stands for: with IPv6, everybody has a network of them."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return peer or ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
