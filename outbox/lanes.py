"""Lanes and buckets of a destination, within which messages keep their order."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from zlib import crc32


class Lane(enum.IntEnum):
    """A way of its own to a destination: order holds within a lane, never across."""

    URGENT = 0
    """Served first; for messages that undo, or must succeed after, an effect."""
    NORMAL = 1


BUCKETS_PER_LANE = 16


BUCKETS = tuple(range(len(Lane) * BUCKETS_PER_LANE))
"""The buckets of every destination: those of the urgent lane first."""

PAUSED = -1
"""In place of a bucket: the row of `outbox_held` says that the whole destination is paused."""
SILENT = -2
"""In place of a bucket: the row says since when the destination has given no answer."""

BLOCKED = datetime(9999, 1, 1, tzinfo=UTC)
"""In place of the time until which a key rests: it is blocked, until an operator decides."""


def bucket_of(lane: Lane, key: str) -> int:
    """The bucket of a key: one of the lane's 16."""
    return lane * BUCKETS_PER_LANE + crc32(key.encode()) % BUCKETS_PER_LANE


def lane_of(bucket: int) -> Lane:
    """The lane that a bucket belongs to."""
    return Lane(bucket // BUCKETS_PER_LANE)
