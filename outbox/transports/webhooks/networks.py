"""The addresses that a webhook may lead to: public ones, unless its setting says otherwise."""

from __future__ import annotations

import ipaddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def literal_problem(host: str) -> str | None:
    """The reason why a URL with that host leads to no public address; None where it may, or where
    only a look-up tells."""
    if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
        return f"{host} is this machine"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # Some resolvers read 127.1 or 0x7f000001 as an address, too: what they find is checked.
        return None
    return None if is_public(address) else f"{host} is a loopback or private address"


def is_public(address: IpAddress) -> bool:
    """Whether the address belongs to one machine of the public network. An IPv6 address that stands
    for an IPv4 address is as public as that one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
