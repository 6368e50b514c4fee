"""The console's sessions: what a browser has in place of the token that it was traded for."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.access.tokens import SECRET_BYTES, Found, Token, as_text, token_of
from orchestrator.tables import SagaTables
from outbox.chassis.access.keys import digest_of

SESSION_LASTS = timedelta(hours=12)
"""The longest life of a session; that of its token may end earlier."""


async def find_session(
    connection: AsyncConnection, tables: SagaTables, shown: bytes
) -> Found | None:
    """The session with that digest, and the token that it was traded for."""
    saga_token = tables.saga_token
    saga_session = tables.saga_session
    query = (
        select(
            saga_token, saga_session.c.digest.label("shown"), saga_session.c.expires_at.label("end")
        )
        .join(saga_session, saga_session.c.token == saga_token.c.name)
        .where(saga_session.c.digest == shown)
    )
    row = (await connection.execute(query)).mappings().first()
    if row is None or not hmac.compare_digest(row["shown"], shown):
        return None
    return Found(token_of(row), row["end"])


async def begin_session(
    connection: AsyncConnection,
    tables: SagaTables,
    token: Token,
    *,
    now: datetime,
    entropy: Callable[[int], bytes],
) -> tuple[str, datetime]:
    """A new session for that token: its secret, and when it ends. Sessions that are over go."""
    saga_session = tables.saga_session
    ends = now + SESSION_LASTS
    if token.expires_at is not None:
        ends = min(ends, token.expires_at)
    secret = as_text(entropy(SECRET_BYTES))
    await connection.execute(delete(saga_session).where(saga_session.c.expires_at <= now))
    await connection.execute(
        insert(saga_session).values(
            digest=digest_of(secret), token=token.name, made_at=now, expires_at=ends
        )
    )
    return secret, ends


async def end_session(connection: AsyncConnection, tables: SagaTables, shown: bytes) -> None:
    """End the session with that digest, if there is one."""
    saga_session = tables.saga_session
    await connection.execute(delete(saga_session).where(saga_session.c.digest == shown))
