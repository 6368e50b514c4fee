"""Peers: the services that a service sends to, by name, with their addresses."""

from __future__ import annotations

from collections.abc import Mapping

from outbox.adding.installation import destination
from outbox.errors import OutboxError
from outbox.transports.http.address import Address, shown


def peers_in(text: str) -> Mapping[str, str]:
    """The addresses in "name=http://host:port,...", by name; none for an empty text. Raises
    ValueError that names the part which is wrong."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, is_given, url = (it.strip() for it in part.partition("="))
        if not is_given:
            raise ValueError(f"{shown(part)!r} is not name=address")
        try:
            name = destination(name)
        except OutboxError as error:
            raise ValueError(str(error)) from None
        if name in found:
            raise ValueError(f"{name} has two addresses")
        try:
            found[name] = address_in(url)
        except ValueError as error:
            raise ValueError(f"the address of {name}: {error}") from None
    return found


def address_in(text: str) -> str:
    """The address of one peer, without a slash at its end. Raises ValueError where it is none."""
    try:
        Address.parse(text)
    except OutboxError as error:
        raise ValueError(error.problem) from None
    return text.rstrip("/")


def agreed(told: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The address of each peer, from what several variables say: by variable, and then by name.

    Raises ValueError where two of them say different ones for a peer, with both variables and both
    addresses.
    """
    found: dict[str, tuple[str, str]] = {}
    for variable, peers in told.items():
        for name, url in peers.items():
            first, known = found.setdefault(name, (variable, url))
            if Address.parse(known) != Address.parse(url):
                raise ValueError(
                    f"{first} says {known!r} for the peer {name}, and {variable} says {url!r}"
                )
    return {name: url for name, (_, url) in found.items()}
