"""The signature of a webhook, by the Standard Webhooks scheme (https://www.standardwebhooks.com).

Signed is the text `id.timestamp.body`, by HMAC-SHA256 with each secret. A subscriber accepts a
request of which one signature fits, so that a secret can be changed without an interruption.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from datetime import datetime

from outbox.errors import InvalidWebhook

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

PREFIX = "whsec_"
SHORTEST_SECRET = 24
LONGEST_SECRET = 64

_BLANKS = re.compile(r"[\s,]+")
_MAKE_ONE = (
    'make one with: python -c "import base64, secrets; '
    "print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""
)


def sign(secrets: Sequence[bytes], *, id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The three headers of the request; `now` is aware. The signatures stand in the order of the
    secrets."""
    timestamp = str(int(now.timestamp()))
    signed = f"{id}.{timestamp}.".encode() + body
    signatures = (
        base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets
    )
    return {
        ID_HEADER: id,
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: " ".join(f"v1,{each}" for each in signatures),
    }


def secrets_in(text: str, where: str) -> list[bytes]:
    """The secrets in the text, with blanks or commas between them; `where` names their place.

    Raises InvalidWebhook, without any part of a secret.
    """
    found: list[bytes] = []
    for position, each in enumerate(filter(None, _BLANKS.split(text)), 1):
        try:
            if not each.startswith(PREFIX):
                raise ValueError(f"does not begin with {PREFIX}")
            found.append(_decoded(each.removeprefix(PREFIX)))
        except ValueError as error:
            raise InvalidWebhook(
                f"secret {position} of {where} {error}", next_step=_MAKE_ONE
            ) from None
    if not found:
        raise InvalidWebhook(f"{where} holds no secret", next_step=_MAKE_ONE)
    return found


def _decoded(encoded: str) -> bytes:
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        raise ValueError(
            f"has {len(secret)} bytes, and {SHORTEST_SECRET} to {LONGEST_SECRET} are needed"
        )
    return secret
