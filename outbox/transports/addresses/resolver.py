"""The port through which the addresses of a destination are found, and the list among its
implementations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from outbox.transports.addresses.address import Address, Found


class Resolver(Protocol):
    """The source of the addresses of one destination.

    - `found` waits for nothing but the end of the first look, which it begins.
    - It never raises for what a name server or the network does: then `trouble` says what is wrong,
      and what was known stays known.
    - After `aclose` nothing of it runs any more.
    """

    @property
    def trouble(self) -> str | None:
        """What was wrong with the last look, and what to do about it; None where nothing was."""

    @property
    def known(self) -> Sequence[Found]:
        """The addresses that are known now, each once; the same object until they change."""

    async def found(self) -> Sequence[Found]:
        """The same, once there was a look for them."""

    def doubt(self) -> None:
        """Note that one of them does not answer: look again soon."""

    async def aclose(self) -> None:
        """End what runs. Calling it twice is fine."""


class Listed:
    """Addresses that are written down, in their order."""

    trouble: str | None = None

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.known: Sequence[Found] = tuple(Found(it) for it in addresses)

    async def found(self) -> Sequence[Found]:
        """All of them."""
        return self.known

    def doubt(self) -> None:
        """Without effect: the list stays as it is."""

    async def aclose(self) -> None:
        """Without effect: nothing runs."""
