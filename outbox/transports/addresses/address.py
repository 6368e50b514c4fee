"""One address: a host and a port, how it is written, and how it was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from outbox.errors import OutboxError

HTTP_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
"""The schemes of HTTP, each with its usual port."""

_VISIBLE = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a destination, from a URL such as `http://127.0.0.1:8001/prefix`."""

    scheme: str
    host: str
    port: int
    path: str
    """Without a slash at its end; "" for the root."""
    name: str | None = field(default=None, compare=False)
    """The name by which the host was found, where it is a number: a certificate is for the name."""

    @classmethod
    def parse(cls, url: str, ports: Mapping[str, int] = HTTP_PORTS) -> Address:
        """The address in a URL whose scheme is among `ports`, which has the usual port of each.

        Raises OutboxError where it is no plain URL of such a scheme.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise no_address(url, str(error), ports) from None
        if parts.scheme not in ports or not parts.hostname:
            raise no_address(url, f"it has no {' or '.join(ports)} address of a host", ports)
        if parts.username is not None or parts.query or parts.fragment:
            raise no_address(url, "it has a user, a query or a fragment", ports)
        if not _VISIBLE.fullmatch(url):
            raise no_address(url, "it has blanks, or characters beyond ASCII", ports)
        port = port or ports[parts.scheme]
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def called(self) -> str:
        """The name of the host, for its certificate."""
        return self.name or self.host

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return _with_port(self.called, self.port)

    def __str__(self) -> str:
        return f"{self.scheme}://{_with_port(self.host, self.port)}{self.path}"


@dataclass(frozen=True, slots=True)
class Found:
    """An address that was found. Those with a lower `priority` are used first; among equal ones
    each gets its share by `weight`."""

    address: Address
    priority: int = 0
    weight: int = 1


def shown(url: str) -> str:
    """The text without the parts of an address that may be secrets: those before the @ and behind
    the ?."""
    return url.rpartition("@")[2].partition("?")[0]


def no_address(url: str, problem: str, ports: Mapping[str, int] = HTTP_PORTS) -> OutboxError:
    """The error about a text that is no address."""
    forms = " or ".join(f"{scheme}://HOST:PORT" for scheme in ports)
    return OutboxError(
        f"{shown(url)!r} is not an address to send to: {problem}",
        next_step=f"write it as {forms}, with a path if there is one",
    )


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
