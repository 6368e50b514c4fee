"""Messages over HTTP, both ends: `HttpTransport` delivers, `outbox.receiver` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.transports.http.transport import HttpTransport

__all__ = ["HttpTransport"]

_HOMES = {"HttpTransport": "outbox.transports.http.transport"}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
