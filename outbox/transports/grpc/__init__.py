"""Messages over gRPC, both ends: `GrpcTransport` delivers, `GrpcServer` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from outbox.transports.grpc.server import GrpcServer
    from outbox.transports.grpc.transport import GrpcTransport

__all__ = ["GrpcServer", "GrpcTransport"]

_HOMES = {
    "GrpcServer": "outbox.transports.grpc.server",
    "GrpcTransport": "outbox.transports.grpc.transport",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
