"""The access keys of tokens and sessions, from the database and a memory of a few seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from orchestrator.access import sessions, tokens
from orchestrator.access.tokens import Found, Token
from orchestrator.tables import saga_tables
from outbox.chassis.access.caller import Credential, Shown
from outbox.chassis.access.keys import Key, digest_of
from outbox.clock import Clock
from outbox.database.opening import Database

TRUSTED = 5.0
"""Seconds for which the database's answer counts, and so a revoked token may still work."""
REMEMBERED = 1024
"""The most keys that are remembered; beyond it, those used longest ago are forgotten."""


@dataclass(frozen=True)
class _Remembered:
    found: Found | None
    asked: float


class TokenKeys:
    """The `outbox.chassis.access.keys.Keys` of the orchestrator."""

    def __init__(self, database: Database, clock: Clock, entropy: Callable[[int], bytes]) -> None:
        self._database = database
        self._tables = saga_tables(database.tables)
        self._clock = clock
        self._entropy = entropy
        self._known: OrderedDict[tuple[Shown, bytes], _Remembered] = OrderedDict()

    async def key(self, credential: Credential) -> Key | None:
        """As `Keys`; a session has the name of its token."""
        token = await self.token(credential)
        return None if token is None else Key(token.name, token.role.opens)

    async def token(self, credential: Credential) -> Token | None:
        """The token that the request shows, or that its session was traded for, if it works."""
        if credential.shown not in (Shown.BEARER, Shown.COOKIE):
            return None
        key = (credential.shown, digest_of(credential.secret))
        known = self._known.get(key)
        if known is None or self._clock.monotonic() - known.asked >= TRUSTED:
            asked = self._clock.monotonic()
            known = _Remembered(await self._ask(*key), asked)
            self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        found = known.found
        return found.token if found is not None and found.works(self._clock.now()) else None

    def was_right(self, credential: Credential) -> bool:
        """As `Keys`."""
        known = self._known.get((credential.shown, digest_of(credential.secret)))
        found = None if known is None else known.found
        return found is not None and found.works(self._clock.now())

    async def any_works(self) -> bool:
        """Whether any token works."""
        async with self._database.reading.connect() as connection:
            return await tokens.any_works(connection, self._tables, self._clock.now())

    async def begin_session(self, token: Token) -> tuple[str, datetime]:
        """As `sessions.begin_session`."""
        async with self._database.engine.begin() as connection:
            return await sessions.begin_session(
                connection,
                self._tables,
                token,
                now=self._clock.now(),
                entropy=self._entropy,
            )

    async def end_session(self, secret: str) -> None:
        """End the session of that cookie, here at once, and on other nodes after `TRUSTED` seconds
        at most."""
        shown = digest_of(secret)
        async with self._database.engine.begin() as connection:
            await sessions.end_session(connection, self._tables, shown)
        self._known.pop((Shown.COOKIE, shown), None)

    async def _ask(self, how: Shown, shown: bytes) -> Found | None:
        find = tokens.find if how is Shown.BEARER else sessions.find_session
        async with self._database.reading.connect() as connection:
            return await find(connection, self._tables, shown)
