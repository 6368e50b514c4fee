"""Peers: the services that a service sends to, by name, with their addresses."""

from __future__ import annotations

from collections.abc import Mapping

from outbox.adding.installation import destination
from outbox.errors import ExtraMissing, OutboxError
from outbox.transports.addresses.address import HTTP_PORTS, shown
from outbox.transports.addresses.destination import Destination, Source
from outbox.transports.brokers.address import KINDS, BrokerAddress, is_broker
from outbox.transports.brokers.opening import broker_at
from outbox.transports.grpc.addresses import GRPC_PORTS, grpc_destination, is_grpc
from outbox.transports.http.peer_lists import parts_in

_SCHEMES = (*HTTP_PORTS, *GRPC_PORTS, *KINDS)
_WAYS = frozenset({"", *(it.value for it in Source if it is not Source.LIST)})


def peers_in(text: str) -> Mapping[str, str]:
    """The destinations in "name=http://host:port,...", by name; none for an empty text. A name may
    have several addresses, or servers of a broker, with commas between them, too. Raises ValueError
    that names the part which is wrong."""
    found: dict[str, str] = {}
    for part in parts_in(text):
        name, is_given, url = (it.strip() for it in part.partition("="))
        if not is_given:
            raise ValueError(f"{shown(part)!r} is not name=address")
        try:
            name = destination(name)
        except OutboxError as error:
            raise ValueError(str(error)) from None
        if name in found:
            raise ValueError(
                f"{name} has two addresses; write several of one name as "
                f"{name}=http://HOST:PORT,http://HOST:PORT"
            )
        try:
            found[name] = address_in(url)
        except ValueError as error:
            raise ValueError(f"the address of {name}: {error}") from None
    return found


def address_in(text: str) -> str:
    """The destination of one peer, its addresses without a slash at their ends. Raises ValueError
    where it is none."""
    if text.startswith("webhook+"):
        raise ValueError("it is a webhook, which takes events alone, and this peer gets commands")
    try:
        parsed(text)
    except ExtraMissing as error:
        raise ValueError(str(error)) from None
    except OutboxError as error:
        raise ValueError(error.problem) from None
    if is_broker(text):
        return text.strip()
    return ",".join(part.strip().rstrip("/") for part in text.split(","))


def parsed(text: str) -> Destination | BrokerAddress:
    """The destination of one peer, over HTTP, gRPC or a broker. Raises OutboxError where it is
    none, or what it needs is not installed."""
    if is_broker(text):
        broker_at(text)  # which may lack its library, or not know an option
        return BrokerAddress.parse(text)
    if is_grpc(text):
        return grpc_destination(text)
    for part in text.split(","):
        _require_known_scheme(part.strip())
    return Destination.parse(text)


def _require_known_scheme(text: str) -> None:
    scheme, is_given, _ = text.lower().partition("://")
    kind, _, way = scheme.partition("+")
    # What has a : before may belong to a secret.
    if is_given and ":" not in scheme and (kind not in HTTP_PORTS or way not in _WAYS):
        *others, last = _SCHEMES
        raise OutboxError(
            f"{shown(text)[:100]!r} is not an address to send to: its scheme {scheme[:20]!r} is "
            f"none of {', '.join(others)} or {last}",
            next_step="correct the scheme; docs/operate/configuration.md has all kinds",
        )


def agreed(told: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The address of each peer, from what several variables say: by variable, and then by name.

    Raises ValueError where two of them say different ones for a peer, with both variables and both
    addresses.
    """
    found: dict[str, tuple[str, str]] = {}
    for variable, peers in told.items():
        for name, url in peers.items():
            first, known = found.setdefault(name, (variable, url))
            if parsed(known) != parsed(url):
                raise ValueError(
                    f"{first} says {_told(known)!r} for the peer {name}, and {variable} says "
                    f"{_told(url)!r}"
                )
    return {name: url for name, (_, url) in found.items()}


def _told(url: str) -> str:
    """The address without the secret that one of a broker may have."""
    return str(BrokerAddress.parse(url)) if is_broker(url) else url
