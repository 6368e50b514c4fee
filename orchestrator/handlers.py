"""The handlers of the orchestrator: for starts, answers, and questions which runs have ended.

A handler only stores a start, with the message's own inbox row; the node that owns the run's shard
begins the run, or refuses it, in its next group commit. It stores an answer likewise, with the name
of its sender, which the run compares with the participant that it asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from orchestrator.machine.signals import Replied
from orchestrator.store import signal_rows
from orchestrator.store.queries import live_numbers
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart, dump_start
from orchestrator.tables import saga_tables
from outbox import tracing
from outbox.adding.add import add
from outbox.adding.installation import installation_of, tables_of
from outbox.clock import Clock
from outbox.contract import AreEnded, CommandAnswered, RunsEnded, StartSaga
from outbox.errors import InvalidMessage
from outbox.ids import derive, first_at, is_id
from outbox.inbox.handlers import Context, Handlers
from outbox.messages import Message, type_of
from outbox.replies import Outcome, Reply
from outbox.wire.settled import MAX_TOLD


def add_handlers(
    handlers: Handlers,
    clock: Clock,
    *,
    unsettled: timedelta,
    database: Callable[[], str | None] = lambda: None,
) -> None:
    """Register what this service does with messages. It says of no run that began within
    `unsettled` that it has ended, since some of these may still be on their way. `database` gives
    the id of the database that it answers from."""

    @handlers.on_list(StartSaga)
    async def start(
        session: AsyncSession, starts: Sequence[StartSaga], contexts: Sequence[Context]
    ) -> list[None]:
        now = clock.now()
        rows = []
        for start, context in zip(starts, contexts, strict=True):
            # A message without a trace belongs to that of its handling, if there is one.
            trace = context.trace or tracing.current()
            asked = StoredStart(start.name, start.input, context.source, trace, start.begin_at)
            kind, payload = dump_start(asked)
            rows.append(_row(start.instance_id, kind, payload, context, now))
        await _keep(session, rows)
        return [None] * len(starts)

    @handlers.on_list(CommandAnswered)
    async def answer(
        session: AsyncSession, answers: Sequence[CommandAnswered], contexts: Sequence[Context]
    ) -> list[None]:
        now = clock.now()
        rows = []
        for answer, context in zip(answers, contexts, strict=True):
            signal = Replied(answer.command_id, reply_of(answer), context.source)
            kind, payload = signal_rows.dump(signal)
            rows.append(_row(answer.instance_id, kind, payload, context, now))
        await _keep(session, rows)
        return [None] * len(answers)

    @handlers.on(AreEnded)
    async def are_ended(session: AsyncSession, question: AreEnded, context: Context) -> None:
        ended = await _which_ended(session, question, clock.now() - unsettled)
        answer = replace(ended, database=database())
        # One question has one answer, however often it comes.
        add(session, answer, to=context.source, id=derive(context.id, "answer"))

    handlers.check(StartSaga, _check_start)
    handlers.check(CommandAnswered, _check_answer)
    handlers.check(AreEnded, _check_question)


def _check_start(start: StartSaga) -> None:
    _check_ids(start, "a run", instance_id=start.instance_id)


def _check_answer(answer: CommandAnswered) -> None:
    _check_ids(answer, "the command", instance_id=answer.instance_id, command_id=answer.command_id)
    if answer.outcome not in set(Outcome):
        raise InvalidMessage(
            f"{answer.outcome[:100]!r} in {answer.message_type} is not the outcome of a command",
            next_step=f"give one of {', '.join(Outcome)}",
        )


def _check_question(question: AreEnded) -> None:
    _check_ids(question, "a run", since=question.since, before=question.before)


def _check_ids(message: Message, of: str, **ids: str) -> None:
    """Raises InvalidMessage where one of these fields is no id."""
    for name, id in ids.items():
        if not is_id(id):
            raise InvalidMessage(
                f"{name} {id[:100]!r} in {type_of(message)} is not a UUIDv7 in its canonical form",
                next_step=f"take the id of {of}",
            )


async def _which_ended(
    session: AsyncSession, question: AreEnded, settled_until: datetime
) -> RunsEnded:
    """The answer to it, which says nothing of runs that began after `settled_until`."""
    before = min(question.before, first_at(settled_until))
    tables = tables_of(session.sync_session)
    live = await live_numbers(session, tables, question.since, before, MAX_TOLD + 1)
    if is_more := len(live) > MAX_TOLD:
        before = live[MAX_TOLD]
    return RunsEnded(
        question.consumer,
        question.since,
        max(question.since, before),
        live=list(live[:MAX_TOLD]),
        is_more=is_more,
    )


def _row(saga_id: str, kind: str, payload: str, context: Context, now: datetime) -> dict[str, Any]:
    row = signal_rows.to_row(saga_id, shard_of(saga_id), kind, payload, now)
    return row | {"message_id": context.id}


async def _keep(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    signals = saga_tables(tables_of(session.sync_session)).saga_signal
    await session.execute(insert(signals), rows)
    if not event.contains(session.sync_session, "after_commit", _ring):
        event.listen(session.sync_session, "after_commit", _ring)


def reply_of(answer: CommandAnswered) -> Reply:
    """The reply in that message."""
    return Reply(
        Outcome(answer.outcome),
        answer.value,
        answer.code,
        answer.reason,
        answer.retry_after,
        answer.after_pending,
    )


def _ring(session: Session) -> None:
    installation_of(session).bell.ring()
