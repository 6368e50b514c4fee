"""The network of a connection's address, by which callers are counted."""

from __future__ import annotations

import ipaddress


def network_of(peer: str | None) -> str:
    """The network that counts as one caller: the address itself, or with IPv6, where a caller has
    many addresses, its network of 64 bits. The text itself where it is no address."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return peer or ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
