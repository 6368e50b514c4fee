"""Signed requests: HMAC-SHA256 with a shared secret, a key id and a time window.

Signed are these lines, joined by a newline, UTF-8:

    sagabox-signature-v1
    the method in upper case
    the target: path, and "?" with the query string where there is one
    Sagabox-Timestamp, in Unix seconds
    Sagabox-Key-Id
    Content-Type
    Sagabox-Settled
    the SHA-256 of the body in lower-case hex
    one line "name:value" for each ce-* header, by name, in lower case

An absent header counts as an empty line. A request that is repeated within the window is not
refused here: the inbox knows its messages already.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime

from outbox.errors import InvalidKeyring, UntrustedRequest

KEY_ID_HEADER = "Sagabox-Key-Id"
TIMESTAMP_HEADER = "Sagabox-Timestamp"
SIGNATURE_HEADER = "Sagabox-Signature"
TARGET_HEADER = "Sagabox-Target"
"""The target that was signed, for a receiver behind a proxy that changes paths."""
TO_HEADER = "ce-sagaboxto"
"""The name of the service that a request is for. It is signed, as all ce-* headers are."""

DATABASE_HEADER = "Sagabox-Database"
"""The id of the database that an answer comes from."""
MEANT_HEADER = "ce-sagaboxdatabase"
"""The id of the database that a request is meant for. It is signed, as all ce-* headers are."""

DEFAULT_WINDOW = 300.0
"""Seconds by which the clocks of sender and receiver may differ, including the request's way."""

MINIMUM_SECRET_BYTES = 32

_VERSION = "sagabox-signature-v1"
_SINGLE = ("content-type", "sagabox-settled")
_OWN = tuple(name.lower() for name in (KEY_ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


class Keyring:
    """The secrets that are valid now, and the one that signs.

    To change the secret without an interruption: add the new key everywhere, then let it sign
    everywhere, then take the old one away. Raises InvalidKeyring where a secret is too short, or
    the signing key is not among the keys.
    """

    def __init__(
        self, keys: Mapping[str, bytes], signing: str, window: float = DEFAULT_WINDOW
    ) -> None:
        for key_id, secret in keys.items():
            _check_key(key_id, secret)
        if signing not in keys:
            raise InvalidKeyring(
                f"the signing key {signing!r} is not among the keys {sorted(keys)}",
                next_step="name one of the keys as the one that signs",
            )
        if not 0 < window < float("inf"):
            raise InvalidKeyring(
                f"a window of {window} seconds accepts nothing or everything",
                next_step=f"choose some minutes, such as {DEFAULT_WINDOW:.0f}",
            )
        self.signing = signing
        self.window = window
        self._keys = dict(keys)

    @classmethod
    def from_text(cls, text: str, window: float = DEFAULT_WINDOW) -> Keyring:
        """The keyring in a setting `id:base64,id:base64`; the first key signs, all verify.

        Raises InvalidKeyring; no secret stands in its text.
        """
        keys: dict[str, bytes] = {}
        for position, part in enumerate(text.split(","), 1):
            key_id, separator, encoded = part.strip().partition(":")
            if not separator:
                raise InvalidKeyring(
                    f"key {position} of the setting is not of the form id:base64",
                    next_step=_MAKE_ONE,
                )
            if key_id in keys:
                raise InvalidKeyring(
                    f"the key id {key_id!r} is there twice", next_step="give each key its own id"
                )
            keys[key_id] = _secret(key_id, encoded)
        return cls(keys, next(iter(keys)), window)

    @property
    def signing_secret(self) -> bytes:
        """The secret of the key that signs."""
        return self._keys[self.signing]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the one that signs among them."""
        return tuple(self._keys)

    def secret_of(self, key_id: str) -> bytes | None:
        """The secret of that key, or None where it is not (or no longer) valid."""
        return self._keys.get(key_id)

    def __repr__(self) -> str:
        # Without the secrets: a repr ends up in logs.
        return f"Keyring(keys={sorted(self._keys)}, signing={self.signing!r})"


def sign(
    keyring: Keyring,
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """The three headers to add to the request. `headers` are those that it has already; `target`
    is path and query string as they go over the wire; `now` is aware.

    Raises ValueError where a part that is signed holds a line break or stands there twice.
    """
    timestamp = str(int(now.timestamp()))
    covered = _covered(method, target, headers)
    key_id, secret = keyring.signing, keyring.signing_secret
    signature = _signature(secret, method, target, timestamp, key_id, covered, body)
    return {KEY_ID_HEADER: key_id, TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: signature}


def verify(
    keyring: Keyring,
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> str:
    """The id of the key with which the request was signed. Raises UntrustedRequest otherwise."""
    key_id, timestamp = require_signature(
        keyring, method=method, target=target, headers=headers, body=body
    )
    # After the signature, so that what is said about the clocks is true.
    age = now.timestamp() - timestamp
    if abs(age) > keyring.window:
        raise UntrustedRequest(
            f"the request was signed {abs(age):.0f} s {'ago' if age > 0 else 'in the future'}, and "
            f"{keyring.window:.0f} s are allowed",
            next_step="set the clocks of both machines, and sign each attempt anew",
        )
    return key_id


def require_signature(
    keyring: Keyring, *, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> tuple[str, int]:
    """The id of the key with which this was signed, and the time of that in Unix seconds, however
    long ago. Raises UntrustedRequest where it was not."""
    try:
        covered = _covered(method, target, headers)
    except ValueError as error:
        raise UntrustedRequest(
            f"the request is ambiguous: {error}",
            next_step="send each signed part once, without line breaks",
        ) from None
    key_id, timestamp, signature = (covered.get(name, "") for name in _OWN)
    if not (key_id and timestamp and signature):
        raise UntrustedRequest(
            "the request is not signed",
            next_step=f"send {KEY_ID_HEADER}, {TIMESTAMP_HEADER} and {SIGNATURE_HEADER}; the "
            "library's own transport does so by itself",
        )
    if not _TIMESTAMP.fullmatch(timestamp) or not _SIGNATURE.fullmatch(signature):
        raise UntrustedRequest(
            "the signature's headers are not of the expected form",
            next_step=f"send {TIMESTAMP_HEADER} in Unix seconds and {SIGNATURE_HEADER} as 64 "
            "lower-case hexadecimal digits",
        )
    secret = keyring.secret_of(key_id)
    if secret is None:
        raise UntrustedRequest(
            f"the request was signed with the key {key_id[:64]!r}, which is not valid here",
            next_step="add that key to the receiver's keys, or sign with one of them",
        )
    expected = _signature(secret, method, target, timestamp, key_id, covered, body)
    if not hmac.compare_digest(expected, signature):
        raise UntrustedRequest(
            f"the signature does not fit the request under the key {key_id!r}",
            next_step="compare the secrets of both sides (do both services have the same "
            "SAGABOX_SECRETS?), and look for a proxy that changes the path, the body or the "
            "covered headers",
        )
    return key_id, int(timestamp)


def skew_of(headers: Mapping[str, str], now: datetime) -> float:
    """The seconds by which the clock of a request's signer is ahead of `now`; below 0 it is behind,
    and so is one whose request took long. For a request that `verify` accepted."""
    return int(headers[TIMESTAMP_HEADER]) - now.timestamp()


def _covered(method: str, target: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The signed headers, by lower-case name. Raises ValueError where the signed lines could be
    read in two ways."""
    if _breaks(method + target):
        raise ValueError("the method or the target holds a line break")
    covered: dict[str, str] = {}
    # A mapping of headers may name one twice; taking either would leave the other one unsigned.
    for name, value in headers.items():
        lowered = name.lower()
        if lowered not in _SINGLE and lowered not in _OWN and not lowered.startswith("ce-"):
            continue
        if lowered in covered:
            raise ValueError(f"the header {lowered!r} is there twice")
        if _breaks(name + value):
            raise ValueError(f"the header {lowered!r} holds a line break")
        covered[lowered] = value.strip(" \t")
    return covered


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def _signature(
    secret: bytes,
    method: str,
    target: str,
    timestamp: str,
    key_id: str,
    covered: Mapping[str, str],
    body: bytes,
) -> str:
    lines = [
        _VERSION,
        method.upper(),
        target,
        timestamp,
        key_id,
        *(covered.get(name, "") for name in _SINGLE),
        hashlib.sha256(body).hexdigest(),
        *(f"{name}:{covered[name]}" for name in sorted(covered) if name.startswith("ce-")),
    ]
    # Headers come as latin-1 and may hold anything; what has no UTF-8 form still gets one.
    message = "\n".join(lines).encode(errors="surrogatepass")
    return hmac.digest(secret, message, "sha256").hex()


_MAKE_ONE = (
    'make a key with: python -c "import base64, secrets; '
    "print('k1:' + base64.b64encode(secrets.token_bytes(32)).decode())\""
)


def _secret(key_id: str, encoded: str) -> bytes:
    standard = encoded.strip().translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKeyring(
            f"the secret of the key {key_id!r} is not base64", next_step=_MAKE_ONE
        ) from None


def _check_key(key_id: str, secret: bytes) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise InvalidKeyring(
            f"{key_id!r} is no key id",
            next_step="use 1 to 64 letters, digits, dots, dashes and underscores",
        )
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise InvalidKeyring(
            f"the secret of the key {key_id!r} has {len(secret)} bytes, and could be guessed; "
            f"it needs {MINIMUM_SECRET_BYTES}",
            next_step=_MAKE_ONE,
        )
