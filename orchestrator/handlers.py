"""What the orchestrator does with messages: starts that services ask for, and answers to commands.

A start is only written down here, with the message's own inbox row; the node that owns the run's
shard begins the run, or refuses it, in its next group commit. An answer is written down likewise,
with the name of its sender, which the run compares with the participant that it asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from orchestrator.machine.signals import Replied
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart, dump_start
from orchestrator.tables import saga_signal
from outbox import tracing
from outbox.adding.installation import installation_of
from outbox.clock import Clock
from outbox.contract import CommandAnswered, StartSaga
from outbox.errors import InvalidMessage
from outbox.ids import is_id
from outbox.inbox.handlers import Context, Handlers
from outbox.replies import Outcome, Reply


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
        await _keep(session, rows)
        return [None] * len(starts)

    @handlers.on_list(CommandAnswered)
    async def answer(
        session: AsyncSession, answers: Sequence[CommandAnswered], contexts: Sequence[Context]
    ) -> list[None]:
        now = clock.now()
        rows = []
        for answer, context in zip(answers, contexts, strict=True):
            signal = Replied(answer.command_id, _reply_of(answer), context.source)
            kind, payload = signal_rows.dump(signal)
            rows.append(
                {
                    "shard": shard_of(answer.instance_id),
                    "saga_id": answer.instance_id,
                    "kind": kind,
                    "payload": payload,
                    "made_at": now,
                    "message_id": context.id,
                }
            )
        await _keep(session, rows)
        return [None] * len(answers)

    return handlers


async def _keep(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    await session.execute(insert(saga_signal), rows)
    if not event.contains(session.sync_session, "after_commit", _ring):
        event.listen(session.sync_session, "after_commit", _ring)


def _reply_of(answer: CommandAnswered) -> Reply:
    for name, id in (("instance_id", answer.instance_id), ("command_id", answer.command_id)):
        if not is_id(id):
            raise InvalidMessage(
                f"{name} {id[:100]!r} in {answer.message_type} is not an id",
                next_step="take both from the command that is answered",
            )
    if answer.outcome not in set(Outcome):
        raise InvalidMessage(
            f"{answer.outcome[:100]!r} in {answer.message_type} is not the outcome of a command",
            next_step=f"give one of {', '.join(Outcome)}",
        )
    return Reply(
        Outcome(answer.outcome), answer.value, answer.code, answer.reason, answer.retry_after
    )


def _ring(session: Session) -> None:
    installation_of(session).bell.ring()
