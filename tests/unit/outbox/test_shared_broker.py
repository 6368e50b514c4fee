"""One client of a broker for several transports: it is closed with the last of them."""

from __future__ import annotations

import pytest

from outbox.service.shared_broker import SharedBroker
from outbox.transports.brokers.broker import BrokerAway, Packet
from tests.support.outbox.memory_broker import MemoryBroker, MemoryServer

PACKET = Packet(0, {}, b"x")


async def test_it_is_closed_with_its_last_share_and_a_closed_share_sends_nothing() -> None:
    broker = MemoryBroker(MemoryServer())
    shared = SharedBroker(broker)
    one, other = shared.share(), shared.share()
    assert (one.partitions, one.features) == (broker.partitions, broker.features)
    await one.publish("a", [PACKET])
    await one.aclose()
    await one.aclose()
    with pytest.raises(BrokerAway):
        await one.publish("a", [PACKET])
    await other.publish("a", [PACKET])
    assert await other.waiting("a") == 2
    assert len(await (await other.open("a", 0)).next(5, 0.1)) == 2
    await other.aclose()
    with pytest.raises(BrokerAway):
        await broker.publish("a", [PACKET])
