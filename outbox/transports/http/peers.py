"""Peers: the services that a service sends to, by name, with their addresses."""

from __future__ import annotations

from collections.abc import Mapping

from outbox.adding.installation import destination
from outbox.errors import OutboxError
from outbox.transports.http.address import Address


def peers_in(text: str) -> Mapping[str, str]:
    """The addresses in "name=http://host:port,...", by name; none for an empty text. Raises
    ValueError that names the part which is wrong."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, is_given, url = (it.strip() for it in part.partition("="))
        if not is_given:
            raise ValueError(f"{part!r} is not name=address")
        try:
            name = destination(name)
        except OutboxError as error:
            raise ValueError(str(error)) from None
        try:
            Address.parse(url)
        except OutboxError as error:
            raise ValueError(f"the address of {name}: {error.problem}") from None
        if name in found:
            raise ValueError(f"{name} has two addresses")
        found[name] = url.rstrip("/")
    return found
