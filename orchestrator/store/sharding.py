"""Shards: the parts that the runs are divided into, and the outbox buckets of each.

Pure. The messages of a run go into the buckets of its own shard, so that the node which owns the
shard is the only one that adds to them and sends from them.
"""

from __future__ import annotations

from functools import cache
from zlib import crc32

from outbox.lanes import BUCKETS_PER_LANE, Lane

SHARDS = tuple(range(BUCKETS_PER_LANE))
"""The numbers of the shards; each shard is owned by one node at a time."""

LEASED_AS = "sagas:shards"
"""The name that the leases of shards stand under. No service can have it: it holds a colon."""


def shard_of(instance_id: str) -> int:
    """The shard of a run, and of the messages that it sends."""
    return crc32(instance_id.encode()) % len(SHARDS)


def shard_of_bucket(bucket: int) -> int:
    """The shard that a bucket belongs to."""
    return bucket % BUCKETS_PER_LANE


def bucket(lane: Lane, shard: int) -> int:
    """The bucket of a shard in that lane."""
    return lane * BUCKETS_PER_LANE + shard


@cache
def buckets(shard: int) -> tuple[int, ...]:
    """The buckets of a shard, one for each lane."""
    return tuple(bucket(lane, shard) for lane in Lane)
