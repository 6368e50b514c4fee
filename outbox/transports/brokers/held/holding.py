"""The port through which a consumer sets aside what it cannot handle."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from outbox.transports.brokers.broker import Packet
from outbox.wire.envelope import Envelope

LaneKey = tuple[bool, str]
"""As `outbox.inbox.batches.order_key` gives it: whether it is an undo, and the order key."""


@dataclass(frozen=True, slots=True)
class ToHold:
    """A packet to set aside. `envelope` is None where it could not be read or believed; then it
    holds up nothing. `attempts` are its failures so far; `is_dead` says that no attempt will help,
    and `blocks` that its key waits behind it all the same. `mark` is what tells a packet that was
    not read from others with the same body.
    """

    queue: str
    packet: Packet
    envelope: Envelope | None
    error: str
    attempts: int = 0
    is_dead: bool = False
    mark: bytes = b""
    blocks: bool = False


class Holding(Protocol):
    """The held table of one consumer."""

    @property
    def is_strict(self) -> bool:
        """Whether what is given up blocks its key: then a message is handled only once it is known
        what became of the one before it."""

    async def held(self, keys: Collection[LaneKey]) -> set[LaneKey]:
        """Which of these keys something holds up."""

    async def hold(self, items: Sequence[ToHold]) -> None:
        """Set these aside, in their order and in one transaction; a packet that is there already is
        left as it is. Raises what the database raises; then the packets come again."""
