"""Addresses from DNS: A and AAAA records with the port of the URL, or SRV records."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from functools import partial
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from outbox.transports.addresses.address import Address, Found
from outbox.transports.addresses.destination import (
    MAX_ADDRESSES,
    Destination,
    Source,
    name_server,
)
from outbox.transports.addresses.watching import Look, Unresolved, Watching

LOOK_SECONDS = 3.0
"""For how long one question waits for the name servers, repetitions included. A look by SRV records
asks for them first, and then for the addresses of their targets, of some at once."""
TRY_SECONDS = 1.0
_AT_ONCE = 8
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Records = tuple[Sequence[str], float]
"""Addresses as text, and for how many seconds they count."""


def by_dns(destination: Destination) -> Watching:
    """The resolver of a destination of DNS."""
    return Watching(str(destination), partial(look, destination))


async def look(destination: Destination) -> Look:
    """Ask the name server once. Raises Unresolved."""
    asking = _Asking(destination)
    if destination.source is Source.SRV:
        return await asking.services()
    return await asking.hosts()


class _Asking:
    """One look, at the name server of the destination or at those of the system."""

    def __init__(self, destination: Destination) -> None:
        assert destination.place is not None
        self._source = str(destination)
        self._place = destination.place
        self._certificate = destination.options.get("certificate")
        server = destination.options.get("server")
        self._whom = f"the name server {server}" if server else "the system's name servers"
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=server is None)
        except dns.resolver.NoResolverConfiguration:
            raise self._unresolved(
                "this system names no name server",
                "name one, as in http+dns://NAME:PORT?server=10.0.0.2",
            ) from None
        if server is not None:
            host, port = name_server(self._source, server)
            self._resolver.nameservers = [host]
            self._resolver.port = port
        self._resolver.timeout = TRY_SECONDS
        self._resolver.lifetime = LOOK_SECONDS

    async def hosts(self) -> Look:
        """The addresses of the place's name."""
        place = self._place
        texts, ttl = await self._numbers(place.host)
        found = [
            Found(Address(place.scheme, it, place.port, place.path, name=place.host))
            for it in texts
        ]
        return Look(found, ttl)

    async def services(self) -> Look:
        """The addresses of the targets of the place's SRV records."""
        answer = await self._answer(self._place.host, "SRV")
        assert answer is not None
        targets: list[Any] = sorted(answer[0], key=lambda it: (it.priority, -it.weight))
        if len(targets) == 1 and targets[0].target == dns.name.root:
            raise self._unresolved(
                f"{self._whom} says that there is no such service", "correct the name"
            )
        at_once = asyncio.Semaphore(_AT_ONCE)
        ttls = [answer[1]]

        async def found_for(record: Any) -> list[Found]:
            host = str(record.target).rstrip(".")
            async with at_once:
                texts, ttl = await self._numbers(host)
            ttls.append(ttl)
            place, name = self._place, self._certificate or host
            return [
                Found(
                    Address(place.scheme, it, record.port, place.path, name=name),
                    record.priority,
                    record.weight,
                )
                for it in texts
            ]

        results = await asyncio.gather(
            *map(found_for, targets[:MAX_ADDRESSES]), return_exceptions=True
        )
        found = [it for each in results if not isinstance(each, BaseException) for it in each]
        troubles = [it for it in results if isinstance(it, BaseException)]
        if not found or any(not isinstance(it, Unresolved) for it in troubles):
            raise troubles[0]
        return Look(found, min(ttls))

    async def _numbers(self, host: str) -> Records:
        """The addresses of that name, which may be one itself."""
        try:
            return [str(ipaddress.ip_address(host))], float("inf")
        except ValueError:
            pass
        answers = await asyncio.gather(
            *(self._answer(host, kind) for kind in ("A", "AAAA")), return_exceptions=True
        )
        texts: list[str] = []
        ttls: list[float] = []
        for answer in answers:
            if isinstance(answer, tuple):
                texts += [it.address for it in answer[0]]
                ttls.append(answer[1])
        usable = [it for it in texts if _is_usable(it)]
        if usable:
            return usable, min(ttls)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if texts:
            raise self._unresolved(
                f"{self._whom} gives {host} the address {texts[0]}, where no host can be",
                "correct its records",
            )
        raise self._unresolved(
            f"{self._whom} has no address of {host}", "add A or AAAA records, or correct the name"
        )

    async def _answer(self, name: str, kind: str) -> tuple[dns.resolver.Answer, float] | None:
        """The records of that kind, and their time to live; None where the name has none of an
        address."""
        try:
            answer = await self._resolver.resolve(name, kind, search=kind != "SRV")
        except dns.resolver.NXDOMAIN:
            raise self._unresolved(
                f"{self._whom} does not know the name {name}", "correct the name, or add it there"
            ) from None
        except dns.resolver.NoAnswer:
            if kind != "SRV":
                return None
            raise self._unresolved(
                f"{self._whom} has no SRV records of {name}",
                "add them, or use http+dns://NAME:PORT",
            ) from None
        except (dns.resolver.LifetimeTimeout, dns.resolver.NoNameservers) as error:
            raise self._unresolved(
                f"{self._whom} gives no answer about {name}: {str(error)[:200]}",
                "see whether it runs, and whether this machine reaches it",
            ) from None
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise self._unresolved(
                f"{self._whom} gives an answer about {name} that cannot be read: "
                f"{type(error).__name__}: {str(error)[:200]}",
                "see what answers there: it may be no name server",
            ) from None
        return answer, float(answer.chaining_result.minimum_ttl)

    def _unresolved(self, problem: str, next_step: str) -> Unresolved:
        return Unresolved(f"{self._source}: {problem}", next_step=next_step)


def _is_usable(text: str) -> bool:
    """Whether a host can have that address."""
    address = ipaddress.ip_address(text)
    if address in _NAT64:
        # The way from a network of IPv6 alone to a host of IPv4, whose address stands at its end.
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    is_local = address.version == 6 and address.is_link_local
    return (
        not (address.is_unspecified or address.is_multicast or address.is_reserved or is_local)
        or address.is_loopback
    )
