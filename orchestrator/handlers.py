"""What the orchestrator does with messages: starts that services ask for.

A start is only written down here, with the message's own inbox row; the node that owns the run's
shard begins the run, or refuses it, in its next group commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart, dump_start
from orchestrator.tables import saga_signal
from outbox import tracing
from outbox.adding.installation import installation_of
from outbox.clock import Clock
from outbox.contract import StartSaga
from outbox.errors import InvalidMessage
from outbox.ids import is_id
from outbox.inbox.handlers import Context, Handlers


def make_handlers(clock: Clock) -> Handlers:
    """The handlers of this service."""
    handlers = Handlers("orchestrator")

    @handlers.on_list(StartSaga)
    async def start(
        session: AsyncSession, starts: Sequence[StartSaga], contexts: Sequence[Context]
    ) -> list[None]:
        now = clock.now()
        rows = []
        for start, context in zip(starts, contexts, strict=True):
            if not is_id(start.instance_id):
                raise InvalidMessage(
                    f"{start.instance_id[:100]!r} in {start.message_type} is not the id of a run",
                    next_step="send a UUIDv7 in its canonical form",
                )
            # One that came in no trace belongs to that of its handling, if there is one.
            trace = context.trace or tracing.current()
            asked = StoredStart(start.name, start.input, context.source, trace)
            kind, payload = dump_start(asked)
            rows.append(
                {
                    "shard": shard_of(start.instance_id),
                    "saga_id": start.instance_id,
                    "kind": kind,
                    "payload": payload,
                    "made_at": now,
                    "message_id": context.id,
                }
            )
        await session.execute(insert(saga_signal), rows)
        if not event.contains(session.sync_session, "after_commit", _ring):
            event.listen(session.sync_session, "after_commit", _ring)
        return [None] * len(starts)

    return handlers


def _ring(session: Session) -> None:
    installation_of(session).bell.ring()
