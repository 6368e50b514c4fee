"""The ways on which messages travel: one port, and an implementation a file."""

from __future__ import annotations

from outbox.transports.base import Answered, Delivery, Transport, Unacceptable, Unreachable
from outbox.transports.http import HttpTransport
from outbox.transports.memory import MemoryTransport

__all__ = [
    "Answered",
    "Delivery",
    "HttpTransport",
    "MemoryTransport",
    "Transport",
    "Unacceptable",
    "Unreachable",
]
