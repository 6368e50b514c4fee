"""The figures of a service's queue at one broker, as they stand now."""

from __future__ import annotations

from dataclasses import dataclass

from outbox.transports.brokers.partition_reader import Counts


@dataclass(frozen=True)
class QueueFigures:
    """`broker` is the broker's address, without its secret. `partitions` are those that this
    process reads. `waiting` are the packets of all partitions that are not done; None where the
    broker does not answer."""

    broker: str
    counts: Counts
    partitions: int
    waiting: int | None
