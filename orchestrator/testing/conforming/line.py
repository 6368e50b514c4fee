"""The line to a participant: signed requests, and requests that are signed wrongly on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta

from outbox.clock import Clock
from outbox.transports.addresses.address import Address
from outbox.transports.http.posting import DEFAULT_MAX_ANSWER, Answer, NoAnswer, Poster
from outbox.transports.http.signing import TARGET_HEADER, TO_HEADER, Keyring, sign
from outbox.wire.attributes import quoted
from outbox.wire.envelope import BATCH


class Line:
    """Requests to the participant `to` below `address`, each with `timeout` seconds.

    The participant may take `definite_within` seconds until it has told a definite reply, and
    `restart_within` where it is restarted meanwhile. Raises OutboxError where the address is none.
    """

    def __init__(
        self,
        address: str,
        *,
        to: str,
        keys: Keyring,
        clock: Clock,
        timeout: float,
        definite_within: float = 20.0,
        restart_within: float = 60.0,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        parsed = Address.parse(address)
        self.url = f"{parsed}/messages"
        self.target = f"{parsed.path}/messages"
        self._address = parsed
        self.to = to
        self.keys = keys
        self.clock = clock
        self.entropy = entropy
        self.timeout = timeout
        self.definite_within = definite_within
        self.restart_within = restart_within
        self.attempts = 10
        self.pause = 0.2
        self._poster = Poster(max_answer=DEFAULT_MAX_ANSWER, tls=None)

    async def post(
        self,
        body: bytes,
        *,
        content_type: str = BATCH,
        keys: Keyring | None = None,
        target: str | None = None,
        to: str | None = None,
        ago: float = 0.0,
        more: Mapping[str, str] | None = None,
        after: Mapping[str, str | None] | None = None,
        sent_body: bytes | None = None,
    ) -> Answer | NoAnswer:
        """One request. It is signed with `keys`, for `target` and the service `to`, `ago` seconds
        ago, with the headers `more`. Then `after` replaces headers (None takes one away), and
        `sent_body` the body that was signed."""
        signed_target = target or self.target
        headers = {
            "accept": BATCH,
            "accept-encoding": "identity",
            "content-type": content_type,
            TARGET_HEADER: signed_target,
            TO_HEADER: quoted(to or self.to),
            **(more or {}),
        }
        headers |= sign(
            keys or self.keys,
            method="POST",
            target=signed_target,
            headers=headers,
            body=body,
            now=self.clock.now() - timedelta(seconds=ago),
        )
        for name, value in (after or {}).items():
            headers = {key: it for key, it in headers.items() if key.lower() != name.lower()}
            if value is not None:
                headers[name] = value
        sent = body if sent_body is None else sent_body
        return await self._poster.post(
            self._address, self.target, headers, sent, timeout=self.timeout
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._poster.aclose()
