"""Addresses of gRPC, as settings write them. It needs none of gRPC's own libraries."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from outbox.transports.addresses.address import no_address
from outbox.transports.addresses.destination import Destination, Source
from outbox.transports.grpc.extra import require

GRPC_PORTS: Mapping[str, int] = {"grpc": 50051, "grpcs": 443}
"""The schemes of gRPC. An address always says its port."""


def is_grpc(text: str) -> bool:
    """Whether that destination is one of gRPC, as its first scheme says."""
    return text.strip().partition("://")[0].partition("+")[0].lower() in GRPC_PORTS


def grpc_destination(text: str) -> Destination:
    """The destination of gRPC that a setting names. Raises OutboxError where it is none, and
    ExtraMissing where what gRPC needs is not installed."""
    found = Destination.parse(text, GRPC_PORTS)
    if found.source in (Source.LIST, Source.DNS):
        for part in text.split(","):
            if urlsplit(part.strip()).port is None:
                raise no_address(part, "an address of gRPC says its port", GRPC_PORTS)
    if any(each.path for each in found.addresses) or (found.place and found.place.path):
        raise no_address(text, "an address of gRPC has no path", GRPC_PORTS)
    require(f"the address {found}")
    return found
