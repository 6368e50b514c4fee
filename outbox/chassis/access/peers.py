"""Whom the address of a connection stands for."""

from __future__ import annotations

import ipaddress


def network_of(peer: str | None) -> str:
    """What is counted as one caller: the address, and with IPv6, of which everybody has many, its
    network of 64 bits. The text itself where it is no address."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return peer or ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
