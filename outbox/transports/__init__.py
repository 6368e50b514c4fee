"""The ways on which messages travel: one port, and an implementation a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.transports.base import (
        Accepted,
        Answered,
        Delivery,
        Transport,
        Unacceptable,
        Unreachable,
    )
    from outbox.transports.grpc.transport import GrpcTransport
    from outbox.transports.http.transport import HttpTransport
    from outbox.transports.in_process import InProcessTransport
    from outbox.transports.memory import MemoryTransport
    from outbox.transports.webhooks.transport import WebhookTransport
    from outbox.transports.webhooks.webhook import Webhook

__all__ = [
    "Accepted",
    "Answered",
    "Delivery",
    "GrpcTransport",
    "HttpTransport",
    "InProcessTransport",
    "MemoryTransport",
    "Transport",
    "Unacceptable",
    "Unreachable",
    "Webhook",
    "WebhookTransport",
]

_HOMES = {
    "Accepted": "outbox.transports.base",
    "Answered": "outbox.transports.base",
    "Delivery": "outbox.transports.base",
    "GrpcTransport": "outbox.transports.grpc",
    "HttpTransport": "outbox.transports.http",
    "InProcessTransport": "outbox.transports.in_process",
    "MemoryTransport": "outbox.transports.memory",
    "Transport": "outbox.transports.base",
    "Unacceptable": "outbox.transports.base",
    "Unreachable": "outbox.transports.base",
    "Webhook": "outbox.transports.webhooks",
    "WebhookTransport": "outbox.transports.webhooks",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
