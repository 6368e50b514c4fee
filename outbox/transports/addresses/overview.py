"""What a pool shows of its addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from outbox.transports.addresses.standing import State


@dataclass(frozen=True, slots=True)
class Seen:
    """One address, and how it stands."""

    address: str
    state: State
    priority: int
    weight: int
    requests: int
    failures: int
    reason: str
    retry_in: float
    """Seconds until it may be probed; 0 where it is usable, or may be probed now."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The addresses of one destination. `trouble` says what is wrong with finding them."""

    source: str
    database: str | None
    trouble: str | None
    addresses: Sequence[Seen]
    ejections: int
    strangers: int


@runtime_checkable
class HasAddresses(Protocol):
    """A transport to a destination that may have several addresses."""

    def begin(self) -> None:
        """Find the addresses, and get to know them, before there is anything to send."""

    def overview(self) -> Overview:
        """The addresses, as they stand now."""
