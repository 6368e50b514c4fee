"""Tokens, which people and programs show to the orchestrator.

The database stores the SHA-256 of each: 32 random bytes cannot be guessed, and a reader of the
database cannot use a digest.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import InvalidToken
from orchestrator.tables import SagaTables
from outbox.chassis.access.keys import digest_of
from outbox.chassis.access.routes import Role

PREFIX = "sgb_"
"""The prefix of every token, by which people and scanners recognise a leaked one."""

SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_LIST = "sagabox token list"


@dataclass(frozen=True)
class Token:
    """A token, without its secret."""

    name: str
    role: Role
    made_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def works(self, now: datetime) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class Found:
    """A token, and the end of the session that was shown for it; None where that lasts as long as
    the token."""

    token: Token
    until: datetime | None

    def works(self, now: datetime) -> bool:
        """Whether it opens anything at that time."""
        return self.token.works(now) and (self.until is None or now < self.until)


async def create(
    connection: AsyncConnection,
    tables: SagaTables,
    name: str,
    role: Role,
    *,
    now: datetime,
    expires_at: datetime | None,
    entropy: Callable[[int], bytes],
) -> str:
    """Make a token, and return its secret, which is kept nowhere.

    Raises InvalidToken where the name is malformed, or is or was another token's.
    """
    if not _NAME.fullmatch(name):
        raise InvalidToken(
            f"{name[:120]!r} cannot be the name of a token",
            next_step="use up to 100 letters, digits and . _ @ -, such as: ann, or prometheus",
        )
    secret = PREFIX + as_text(entropy(SECRET_BYTES))
    values = {
        "name": name,
        "digest": digest_of(secret),
        "role": role.value,
        "made_at": now,
        "expires_at": expires_at,
    }
    try:
        await connection.execute(insert(tables.saga_token).values(values))
    except IntegrityError:
        raise InvalidToken(
            f"there is a token {name} already, or there was one",
            next_step=f"choose another name; {_LIST} shows those that are taken",
        ) from None
    return secret


async def revoke(
    connection: AsyncConnection, tables: SagaTables, name: str, *, now: datetime
) -> None:
    """End a token and its sessions; one that has ended stays so. Raises InvalidToken where no token
    has that name."""
    saga_token = tables.saga_token
    saga_session = tables.saga_session
    named = saga_token.c.name == name
    if await connection.scalar(select(saga_token.c.name).where(named)) is None:
        raise InvalidToken(f"there is no token {name[:120]!r}", next_step=_LIST)
    still = and_(named, saga_token.c.revoked_at.is_(None))
    await connection.execute(update(saga_token).where(still).values(revoked_at=now))
    await connection.execute(delete(saga_session).where(saga_session.c.token == name))


async def every(connection: AsyncConnection, tables: SagaTables) -> Sequence[Token]:
    """All tokens that were ever made, by name."""
    saga_token = tables.saga_token
    rows = await connection.execute(select(saga_token).order_by(saga_token.c.name))
    return [token_of(row) for row in rows.mappings()]


async def any_works(connection: AsyncConnection, tables: SagaTables, now: datetime) -> bool:
    """Whether any token works at that time."""
    saga_token = tables.saga_token
    count = select(func.count()).select_from(saga_token).where(_works(saga_token, now))
    return bool(await connection.scalar(count))


async def find(connection: AsyncConnection, tables: SagaTables, shown: bytes) -> Found | None:
    """The token with that digest, whether it works or not."""
    saga_token = tables.saga_token
    query = select(saga_token).where(saga_token.c.digest == shown)
    row = (await connection.execute(query)).mappings().first()
    if row is None or not hmac.compare_digest(row["digest"], shown):
        return None
    return Found(token_of(row), until=None)


def _works(saga_token: Table, now: datetime) -> ColumnElement[bool]:
    unexpired = or_(saga_token.c.expires_at.is_(None), saga_token.c.expires_at > now)
    return and_(saga_token.c.revoked_at.is_(None), unexpired)


def token_of(row: Any) -> Token:
    """A row of the table as a token."""
    return Token(
        name=row["name"],
        role=Role(row["role"]),
        made_at=row["made_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


def as_text(secret: bytes) -> str:
    """A secret in letters and digits, - and _."""
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode("ascii")
