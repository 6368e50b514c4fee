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
    from outbox.transports.http.transport import HttpTransport
    from outbox.transports.in_process import InProcessTransport
    from outbox.transports.memory import MemoryTransport

__all__ = [
    "Accepted",
    "Answered",
    "Delivery",
    "HttpTransport",
    "InProcessTransport",
    "MemoryTransport",
    "Transport",
    "Unacceptable",
    "Unreachable",
]

_HOMES = {
    "Accepted": "outbox.transports.base",
    "Answered": "outbox.transports.base",
    "Delivery": "outbox.transports.base",
    "HttpTransport": "outbox.transports.http",
    "InProcessTransport": "outbox.transports.in_process",
    "MemoryTransport": "outbox.transports.memory",
    "Transport": "outbox.transports.base",
    "Unacceptable": "outbox.transports.base",
    "Unreachable": "outbox.transports.base",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
