"""A destination as a setting writes it: one or many addresses, or where to find them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import parse_qsl, urlsplit

from outbox.errors import OutboxError
from outbox.transports.addresses.address import HTTP_PORTS, Address, no_address, shown

MAX_ADDRESSES = 128
"""The most addresses of one destination that are used."""

_EXAMPLES = (
    "write it as http://HOST:PORT, or several of these with commas between them; or as "
    "http+dns://NAME:PORT, http+srv://_SERVICE._tcp.NAME or http+consul://HOST:8500/SERVICE"
)


class Source(Enum):
    """Where the addresses of a destination come from."""

    LIST = "list"
    """They are written down."""
    DNS = "dns"
    """The A and AAAA records of a name; the port is written down."""
    SRV = "srv"
    """The SRV records of a name, which have ports, priorities and weights."""
    CONSUL = "consul"
    """The instances of a service that an agent of Consul calls healthy."""


_OPTIONS: Mapping[Source, frozenset[str]] = {
    Source.LIST: frozenset(),
    Source.DNS: frozenset({"server"}),
    Source.SRV: frozenset({"server", "certificate"}),
    Source.CONSUL: frozenset({"agent", "certificate", "dc", "prefix", "tag", "token"}),
}


@dataclass(frozen=True)
class Destination:
    """Where the addresses of one name come from.

    A LIST has its `addresses`. The others have in `place` the scheme and path of each address, with
    the host and port of the name or the agent that is asked; `service` is what Consul is asked for.
    """

    source: Source
    addresses: tuple[Address, ...] = ()
    place: Address | None = None
    service: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, ports: Mapping[str, int] = HTTP_PORTS) -> Destination:
        """Raises OutboxError where the text is no address, no list of them, and no place where
        addresses are found. `ports` has the schemes, with their usual ports."""
        parts = [part.strip() for part in text.split(",")]
        discovered = [part for part in parts if _source_of(part) is not Source.LIST]
        if not discovered:
            return cls(Source.LIST, addresses=_listed(parts, ports))
        if len(parts) > 1:
            raise _wrong(
                discovered[0],
                "it stands in a list, and finds several addresses by itself",
                "give the name this one alone, or plain addresses",
            )
        return _discovered(parts[0], ports)

    @property
    def is_one_address(self) -> bool:
        """Whether it is one address that is written down."""
        return len(self.addresses) == 1

    @property
    def url(self) -> str:
        """One URL of it, for a person: the first address that is written down, else the name."""
        if self.place is None:
            return str(self.addresses[0])
        match self.source:
            case Source.SRV:
                labels = [it for it in self.place.host.split(".") if not it.startswith("_")]
                return f"{self.place.scheme}://{'.'.join(labels)}{self.place.path}"
            case Source.CONSUL:
                return f"{self.place.scheme}://{self.service}{self.place.path}"
            case _:
                return str(self.place)

    def __str__(self) -> str:
        if self.source is Source.LIST:
            return ",".join(map(str, self.addresses))
        assert self.place is not None
        scheme, host, path = self.place.scheme, self.place.authority, self.place.path
        if self.source is Source.SRV:
            host = self.place.host
        if self.source is Source.CONSUL:
            path = f"/{self.service}"
        return f"{scheme}+{self.source.value}://{host}{path}"


def _source_of(text: str) -> Source:
    kind = text.partition("://")[0].rpartition("+")[2].lower()
    return next((it for it in Source if it.value == kind and "+" in text), Source.LIST)


def _listed(parts: list[str], ports: Mapping[str, int]) -> tuple[Address, ...]:
    found: list[Address] = []
    for part in parts:
        address = Address.parse(part, ports)
        if address in found:
            raise _wrong(part, "it stands in the list twice", "leave one of them out")
        found.append(address)
    if len(found) > MAX_ADDRESSES:
        raise _wrong(
            parts[0],
            f"it begins a list of {len(found)} addresses, and {MAX_ADDRESSES} are used",
            "put a load balancer before them, or a name of DNS for some of them",
        )
    return tuple(found)


def _discovered(text: str, ports: Mapping[str, int]) -> Destination:
    source = _source_of(text)
    plain = text.partition("://")
    scheme = plain[0].rpartition("+")[0].lower()
    bare, _, query = f"{scheme}://{plain[2]}".partition("?")
    if scheme not in ports:
        raise no_address(text, f"it finds addresses by {source.value}, and has no scheme", ports)
    place = Address.parse(bare, ports)
    options = _options(text, source, query)
    has_port = urlsplit(bare).port is not None
    service = ""
    match source:
        case Source.SRV if has_port:
            raise _wrong(text, "it has a port, and SRV records have theirs", "leave the port out")
        case Source.SRV if not place.host.startswith("_"):
            raise _wrong(
                text,
                "names of SRV records begin with _SERVICE._tcp",
                "write it as http+srv://_comments._tcp.example.org, or use http+dns://",
            )
        case Source.CONSUL:
            _require_certificate(text, place, options)
            service = place.path.strip("/")
            if not service or "/" in service:
                raise _wrong(
                    text,
                    "it names no service of Consul",
                    "write it as http+consul://127.0.0.1:8500/SERVICE, and the path of its "
                    "addresses, if they have one, as ?prefix=/PATH",
                )
            port = place.port if has_port else 8500
            prefix = options.get("prefix", "").rstrip("/")
            if prefix and not prefix.startswith("/"):
                raise _wrong(text, "its prefix is no path", "write it as ?prefix=/PATH")
            place = Address(place.scheme, place.host, port, prefix)
        case Source.SRV:
            _require_certificate(text, place, options)
        case _:
            pass
    return Destination(source, place=place, service=service, options=options)


def _options(text: str, source: Source, query: str) -> Mapping[str, str]:
    known = _OPTIONS[source]
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or name in found or not value:
            raise _wrong(
                text,
                f"its option {name!r} is not known, is empty or is there twice",
                f"the options of {source.value} are {', '.join(sorted(known))}",
            )
        found[name] = value
    token = found.get("token", "env:")
    if token.partition(":")[0] not in ("env", "file"):
        # Its text stays out of the error: a token is a secret.
        raise _wrong(
            text,
            "a token is not written into an address, where logs show it",
            "name where it is: token=env:VARIABLE or token=file:/PATH",
        )
    if found.get("agent", "http") not in HTTP_PORTS:
        raise _wrong(text, "the agent is asked by http or https", "write agent=https")
    if "server" in found:
        name_server(text, found["server"])
    return found


def _require_certificate(text: str, place: Address, options: Mapping[str, str]) -> None:
    if place.scheme in ("https", "grpcs") and "certificate" not in options:
        raise _wrong(
            text,
            "it does not say for which name a certificate is to be, and any host that is found "
            "has one for its own",
            "add ?certificate=NAME, the name in the certificates of that service",
        )


def name_server(text: str, server: str) -> tuple[str, int]:
    """The address and port of a name server, such as 10.0.0.2 or 127.0.0.1:5353; `text` is where it
    is written. Raises OutboxError."""
    try:
        parts = urlsplit(f"dns://{server}")
        host, port = parts.hostname, parts.port or 53
    except ValueError:
        host = None
    if not host or parts.path:
        raise _wrong(
            text,
            "its name server is no address",
            "write it as server=10.0.0.2, or with a port as server=127.0.0.1:5353",
        )
    return host, port


def _wrong(text: str, problem: str, next_step: str) -> OutboxError:
    return OutboxError(
        f"{shown(text)!r} is not an address to send to: {problem}",
        next_step=f"{next_step}; {_EXAMPLES}" if next_step is not _EXAMPLES else next_step,
    )
