"""Addresses of destinations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from outbox.errors import OutboxError

_VISIBLE = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a destination, from a URL such as `http://127.0.0.1:8001/prefix`."""

    scheme: str
    host: str
    port: int
    path: str
    """Without a slash at its end; "" for the root."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises OutboxError where it is no plain http or https URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _no_address(url, str(error)) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _no_address(url, "it has no http or https address of a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise _no_address(url, "it has a user, a query or a fragment")
        if not _VISIBLE.fullmatch(url):
            raise _no_address(url, "it has blanks, or characters beyond ASCII")
        port = port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def shown(url: str) -> str:
    """The text without the parts of an address that may be secrets: those before the @ and behind
    the ?."""
    return url.rpartition("@")[2].partition("?")[0]


def _no_address(url: str, problem: str) -> OutboxError:
    return OutboxError(
        f"{shown(url)!r} is not an address to send to: {problem}",
        next_step="write it as http://HOST:PORT or https://HOST:PORT, with a path if there is one",
    )
