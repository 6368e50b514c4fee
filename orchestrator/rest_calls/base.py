"""The base of a REST participant: the address below which all lies that is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from orchestrator.definition.templates import is_below
from outbox.errors import OutboxError
from outbox.transports.addresses.address import Address

PREFIX = "rest+"
"""What begins the address of a plain HTTP service among the participants."""


def is_rest(address: str) -> bool:
    """Whether that address of a participant is one of a plain HTTP service."""
    return address.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class Base:
    """The base of one participant."""

    address: Address

    @classmethod
    def parse(cls, text: str) -> Base:
        """The base in "rest+https://pay.internal/v1". Raises OutboxError."""
        address = Address.parse(text.removeprefix(PREFIX))
        if not is_below(address.path, address.path):
            raise OutboxError(
                f"the address {text!r} has parts with dots alone",
                next_step="write it as rest+https://pay.internal/v1",
            )
        return cls(address)

    def __str__(self) -> str:
        return str(self.address)

    def url(self, path: str) -> str:
        """The URL of what lies at that path below it."""
        return f"{self.address}{path}"

    def path_of(self, location: str, asked: str) -> str | None:
        """Where a Location that the answer to `asked` (a path below the base) names lies, as a path
        below the base; None where it is elsewhere, or no address."""
        try:
            parts = urlsplit(urljoin(self.url(asked), location))
            found = Address.parse(f"{parts.scheme}://{parts.netloc}{parts.path}")
        except (ValueError, OutboxError):
            return None
        same = (self.address.scheme, self.address.host, self.address.port)
        if (found.scheme, found.host, found.port) != same:
            return None
        if not is_below(parts.path, self.address.path):
            return None
        below = parts.path.removeprefix(self.address.path)
        return f"{below}?{parts.query}" if parts.query else below
