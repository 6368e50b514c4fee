"""What a consumer does with each packet, by the answer of its inbox.

Pure: values in, values out.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import assert_never

from outbox.inbox.batches import is_asked_for_again
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import Envelope


class Lot(Enum):
    """What becomes of a packet."""

    DONE = auto()
    """It was answered; who wanted to know is told by a message."""
    AGAIN = auto()
    """It comes again at once: there was no room for it, or no time."""
    HELD = auto()
    """It is set aside, and its key with it: another attempt may help."""
    DEAD = auto()
    """No attempt will help, and no sender is told by a message: it is set aside to be seen."""


def lot_of(envelope: Envelope, reply: Reply) -> Lot:
    """What becomes of a message with that answer. What only waits for something else is held, too:
    a partition has other keys, and what it waits for may be behind it."""
    is_told = envelope.reply_to == envelope.source and envelope.correlation is not None
    if is_asked_for_again(envelope, reply):
        return Lot.HELD
    match reply.outcome:
        case (
            Outcome.DONE
            | Outcome.REFUSED
            | Outcome.ALREADY_UNDONE
            | Outcome.NOTHING_TO_UNDO
            | Outcome.EXPIRED
        ):
            return Lot.DONE
        case Outcome.LOCKED | Outcome.ONGOING:
            is_kept = reply.is_pending and reply.retry_after is None
            return Lot.DONE if is_told or is_kept else Lot.HELD
        case Outcome.TOO_BUSY | Outcome.NOT_ATTEMPTED:
            return Lot.AGAIN
        case Outcome.FAILED:
            return Lot.HELD
        case Outcome.REJECTED if reply.code == "unknown-type":
            # A release that knows the type may be on its way.
            return Lot.HELD
        case Outcome.REJECTED | Outcome.TOO_OLD | Outcome.UNKNOWN:
            return Lot.DONE if is_told else Lot.DEAD
        case other:
            assert_never(other)


def is_failure(reply: Reply) -> bool:
    """Whether that answer uses an attempt of a message that is held for it."""
    return reply.outcome in (Outcome.FAILED, Outcome.REJECTED)
