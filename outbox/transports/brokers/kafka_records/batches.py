"""Batches of records, as Kafka keeps them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.record.default_records import (  # type: ignore[import-untyped]  # it ships no types
    DefaultRecordBatchBuilder,
)

from outbox.transports.brokers.broker import Packet

LARGEST = 1_000_000
"""Bytes of a body that a topic takes whose max.message.bytes is Kafka's own."""
Records = Mapping[int, bytes]
"""A batch of records for each partition."""


def rounds(packets: Sequence[Packet], now: int) -> list[Records]:
    """Batches of records that Kafka takes, with at most one a partition in each round. `now` is in
    milliseconds since 1970, for a retention by age."""
    builders: dict[int, list[Any]] = defaultdict(list)
    counts: dict[int, int] = {}
    for packet in packets:
        those = builders[packet.partition]
        headers = [(name, value.encode()) for name, value in packet.headers.items()]
        record = {"key": packet.key.encode(), "value": packet.body, "headers": headers}
        if not those or those[-1].append(counts[packet.partition], now, **record) is None:
            those.append(_builder())
            those[-1].append(0, now, **record)
            counts[packet.partition] = 0
        counts[packet.partition] += 1
    batches = {
        partition: [bytes(it.build()) for it in those] for partition, those in builders.items()
    }
    longest = max(len(it) for it in batches.values())
    return [
        {partition: those[n] for partition, those in batches.items() if n < len(those)}
        for n in range(longest)
    ]


def _builder() -> Any:
    return DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=LARGEST,
    )
