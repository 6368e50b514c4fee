"""Access keys: the port by which a service checks them, and keys from its settings."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from outbox.chassis.access.caller import Credential, Shown
from outbox.chassis.access.routes import Opens


@dataclass(frozen=True)
class Key:
    """A valid access key: its name, and the accesses that it opens; whether its requests are
    limited in number."""

    name: str
    opens: Opens
    is_limited: bool = True


class Keys(Protocol):
    """The access keys of one service."""

    async def key(self, credential: Credential) -> Key | None:
        """The key of that credential; None where it is not valid now. How long a wrong one takes
        does not tell how much of it is right."""

    def was_right(self, credential: Credential) -> bool:
        """Whether the credential was valid a short while ago, without a query. A caller with such a
        key is not refused for the failures of others behind the same address."""


class StaticKeys:
    """Access keys that are known from the start, each with the text that is its secret."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        # Of equal length, so that a comparison tells nothing.
        self._keys = [(digest_of(secret), key) for secret, key in keys.items()]

    async def key(self, credential: Credential) -> Key | None:
        """As `Keys`. They are shown as bearer tokens alone."""
        return self._find(credential)

    def was_right(self, credential: Credential) -> bool:
        """As `Keys`."""
        return self._find(credential) is not None

    def _find(self, credential: Credential) -> Key | None:
        if credential.shown is not Shown.BEARER:
            return None
        shown, found = digest_of(credential.secret), None
        for digest, key in self._keys:
            if hmac.compare_digest(digest, shown):
                found = key
        return found


class EitherKeys:
    """The keys of two sources, the first of which is asked first."""

    def __init__(self, first: Keys, second: Keys) -> None:
        self._both = (first, second)

    async def key(self, credential: Credential) -> Key | None:
        """As `Keys`."""
        for keys in self._both:
            if (found := await keys.key(credential)) is not None:
                return found
        return None

    def was_right(self, credential: Credential) -> bool:
        """As `Keys`."""
        return any(keys.was_right(credential) for keys in self._both)


def digest_of(secret: str) -> bytes:
    """The SHA-256 of a secret, also of a text that is none."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
