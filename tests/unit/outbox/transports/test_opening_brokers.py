"""An address of a broker leads to its adapter, and says what to install where that is missing."""

from __future__ import annotations

import sys

import pytest

from outbox.errors import ExtraMissing, InvalidService
from outbox.transports.brokers.opening import broker_at


@pytest.mark.parametrize(
    ("address", "library", "extra"),
    [
        ("nats://127.0.0.1:4222", "nats", "nats"),
        ("amqp://127.0.0.1", "aio_pika", "rabbitmq"),
        ("redis://127.0.0.1", "redis", "redis"),
        ("kafka://127.0.0.1", "aiokafka", "kafka"),
    ],
)
def test_an_address_whose_extra_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, address: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraMissing) as raised:
        broker_at(address)
    assert f"pip install 'sagabox[{extra}]'" in str(raised.value)
    assert f"{extra} at 127.0.0.1" in str(raised.value)


def test_what_is_no_address_of_a_broker_is_refused() -> None:
    with pytest.raises(InvalidService, match="no address of a broker"):
        broker_at("http://127.0.0.1")


def test_an_adapter_is_made_without_an_event_loop_and_without_its_broker() -> None:
    broker = broker_at("nats://127.0.0.1:1?partitions=7")
    assert broker.partitions == 7
    assert "sync_interval" in broker.features.durable
    with pytest.raises(InvalidService, match="colour"):
        broker_at("nats://127.0.0.1:1?colour=red")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("redis://127.0.0.1?ca=/ca.pem", "'ca', which has no effect without TLS"),
        ("amqp://127.0.0.1?cert=/a.pem&key=/b.pem", "'cert', which has no effect without TLS"),
        ("kafka://127.0.0.1?ca=/ca.pem", "'ca', which has no effect without TLS"),
        ("nats://127.0.0.1?key=/b.pem", "'key', which has no effect without cert"),
        ("nats://127.0.0.1/shop", "a path"),
        ("nats://127.0.0.1?partitions=3&partitions=4", "option 'partitions' twice"),
        ("kafka://127.0.0.1?sasl=PLAIN", "'sasl' or a password, and no user"),
        ("kafka://:hidden@127.0.0.1", "'sasl' or a password, and no user"),
    ],
)
def test_what_an_address_has_without_effect_is_refused(address: str, why: str) -> None:
    with pytest.raises(InvalidService, match=why) as refused:
        broker_at(address)
    assert refused.value.next_step
    assert "hidden" not in str(refused.value)
