"""Connections to Kafka."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiokafka.client import AIOKafkaClient  # type: ignore[import-untyped]  # it ships no types

from outbox.transports.brokers.address import BrokerAddress

ANSWER_WITHIN = 10.0
"""Seconds without an answer after which a request is given up."""


def access(address: BrokerAddress, sasl: str, answer_within: float) -> dict[str, Any]:
    """What connections need. A fetch is answered after its wait."""
    access: dict[str, Any] = {"request_timeout_ms": int(answer_within * 1000)}
    kind = "SSL" if address.tls else "PLAINTEXT"
    if address.tls:
        access["ssl_context"] = address.trusting()
    if address.user is not None:
        kind = f"SASL_{kind}"
        access |= {
            "sasl_mechanism": sasl,
            "sasl_plain_username": address.user,
            "sasl_plain_password": address.password or "",
        }
    return access | {"security_protocol": kind}


async def closed(client: AIOKafkaClient) -> None:
    """Close it, and let no caller wait for it for long, or hear of trouble with it."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(ANSWER_WITHIN):
            await client.close()
