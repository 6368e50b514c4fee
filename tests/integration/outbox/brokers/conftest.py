"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest

from outbox.transports.brokers import rabbitmq
from outbox.transports.brokers.amqp import links
from outbox.transports.brokers.jetstream import connection
from tests.support.brokers.traffic import PATIENT


@pytest.fixture(autouse=True)
def patient_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is busy for some seconds is not away. Where a client's patience is what a test
    is about, it sets that itself."""
    monkeypatch.setattr(connection, "CONNECTING", PATIENT)
    monkeypatch.setattr(links, "CONNECT_WITHIN", PATIENT)
    monkeypatch.setattr(rabbitmq, "ANSWER_WITHIN", PATIENT)
