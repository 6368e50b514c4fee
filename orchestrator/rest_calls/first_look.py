"""What a REST call finds in the inbox before its first attempt: the actions that it undoes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from orchestrator.rest_calls.kept import Found, Kept
from outbox.adding.installation import installation_of
from outbox.inbox.handlers import Context
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.transactions import store

SURE = "ran"
"""How the inbox calls an action whose answer is stored."""


class FirstLook:
    """Reads what the inbox of `consumer` knows."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def __call__(
        self, session: AsyncSession, command: object, context: Context
    ) -> dict[str, Any] | None:
        """What is kept for the call, in the transaction that stores it."""
        if not context.undoes:
            return None
        return await session.run_sync(self._found, context.undoes)

    def _found(self, session: Session, undoes: Mapping[str, str]) -> dict[str, Any]:
        rows = store.read(session, self._consumer, list(undoes), lock=False)
        now = pending_rows.now(session, installation_of(session).clock.now())
        kept = pending_rows.read(session, self._consumer, list(undoes), now)
        actions: dict[str, Found] = {}
        for id, found_as in undoes.items():
            row, pended = rows.get(id), kept.get(id)
            reply = None if row is None or row.reply is None else row.reply.value
            if found_as == SURE:
                actions[id] = Found(is_sure=True, reply=reply)
                continue
            if pended is None:
                actions[id] = Found(is_sure=False, until=now)
                continue
            its = Kept.of(None if pended.before is None else orjson.loads(pended.before))
            actions[id] = Found(
                is_sure=False,
                until=pended.until or now,
                polls=its.polls,
                in_doubt=pended.is_in_doubt and not its.keyed,
                answers=its.answers,
            )
        return Kept(actions).json()
