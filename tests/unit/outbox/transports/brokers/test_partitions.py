"""The partitions that a consumer has leased, while it gives some of them back."""

from __future__ import annotations

import pytest

from outbox.clock import SystemClock
from outbox.coordination.leases import Leases
from outbox.transports.brokers.consumer import Partitions

_CLOCK = SystemClock()


def some() -> tuple[Partitions, Leases]:
    partitions = Partitions(_CLOCK, lambda: None)
    leases = Leases({0: 7, 1: 7}, _CLOCK.monotonic() + 100)
    partitions.lease(leases)
    return partitions, leases


def test_a_renewal_under_way_brings_back_no_partition_that_is_given_back_meanwhile() -> None:
    partitions, leases = some()
    with partitions.giving([1]):
        partitions.lease(leases)
        assert partitions.has(0)
        assert not partitions.has(1)
    partitions.lease(leases)
    assert not partitions.has(1)


def test_one_that_is_taken_again_is_had_again() -> None:
    partitions, leases = some()
    with partitions.giving([1]):
        pass
    partitions.lease(Leases({0: 7, 1: 8}, leases.until))
    assert partitions.has(1)


async def test_one_that_is_in_excess_is_read_no_more_and_had_again_where_giving_fails() -> None:
    partitions, leases = some()
    await partitions.give_up([1])
    assert not partitions.has(1)
    with pytest.raises(RuntimeError), partitions.giving([1]):
        raise RuntimeError("the database is away")
    assert partitions.excess == {1}
    await partitions.give_up([])
    partitions.lease(leases)
    assert partitions.has(1)
