"""The resolver and the pool that a destination in the settings stands for."""

from __future__ import annotations

from collections.abc import Callable

from outbox.transports.addresses.destination import Destination, Source
from outbox.transports.addresses.pool import AddressPool
from outbox.transports.addresses.resolver import Listed, Resolver


def resolver_of(destination: Destination) -> Resolver:
    """What finds the addresses of that destination; nothing of it runs before it is asked."""
    match destination.source:
        case Source.LIST:
            return Listed(destination.addresses)
        case Source.DNS | Source.SRV:
            from outbox.transports.addresses.from_dns import by_dns

            return by_dns(destination)
        case Source.CONSUL:
            from outbox.transports.addresses.from_consul import by_consul

            return by_consul(destination)


def pool_of(destination: Destination, now: Callable[[], float]) -> AddressPool:
    """The pool of that destination's addresses; `now` gives seconds of a monotonic clock."""
    follows = destination.is_one_address
    return AddressPool(str(destination), resolver_of(destination), now=now, follows=follows)
