"""Answers that come later: those that are overdue, and those that have no way to their sender."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, problem, warning
from orchestrator.cli.terminal.times import lasting

_AREA = "pending"
_ORCHESTRATOR = "orchestrator"
_SHOWN = 10


async def pending(asked: Asked) -> list[Finding]:
    """The pending commands of the service, oldest first."""
    from sqlalchemy import select

    from outbox.database.time import DatabaseClock
    from outbox.inbox.rows import State

    inbox, inbox_pending = asked.tables.inbox, asked.tables.inbox_pending
    clock = DatabaseClock(postgres=asked.is_postgresql, now=lambda: asked.now)
    own = (inbox.c.consumer == inbox_pending.c.consumer) & (inbox.c.id == inbox_pending.c.id)
    rows = await asked.connection.execute(
        select(inbox_pending, clock.time.label("read_at"))
        .join(inbox, own)
        .where(inbox_pending.c.consumer == asked.name, inbox.c.state == State.PENDING.value)
        .order_by(inbox_pending.c.since)
        .limit(1000)
    )
    found = rows.all()
    told = [*_overdue(asked.name, found), *_without_way(asked, found)]
    return told or [ok(_AREA, asked.name, f"{len(found)} wait, and none longer than was expected")]


def _overdue(name: str, rows: Any) -> Iterator[Finding]:
    late = [it for it in rows if it.expected_at is not None and it.expected_at < it.read_at]
    for row in late[:_SHOWN]:
        since = lasting(row.read_at - row.expected_at)
        note = f": {row.note}" if row.note else ""
        told = f"{row.id} ({row.type}) was expected {since} ago{note}"
        yield warning(_AREA, name, told, f"sagabox pending list MODULE:{name}")
    if len(late) > _SHOWN:
        told = f"{len(late) - _SHOWN} more were expected before now"
        yield warning(_AREA, name, told, f"sagabox pending list MODULE:{name}")


def _without_way(asked: Asked, rows: Any) -> Iterator[Finding]:
    """A later answer is a message, so its sender must be a peer."""
    peers = asked.source.peers
    asking = {it.reply_to for it in rows if it.reply_to is not None}
    for name in sorted(asking - peers.keys()):
        yield problem(
            _AREA,
            asked.name,
            f"{name} waits for an answer, and is not among the peers",
            _add(name),
        )
    service = asked.source.service
    if service is None or {_ORCHESTRATOR} & (asking | peers.keys()):
        return
    later = sorted(str(it.message_class.__name__) for it in service.handlers if _answers_later(it))
    if later:
        yield warning(
            _AREA,
            asked.name,
            f"{', '.join(later)} may be answered later, and no orchestrator is among the peers",
            _add(_ORCHESTRATOR),
        )


def _answers_later(handler: Any) -> bool:
    returned = inspect.get_annotations(handler.function).get("return", "")
    return handler.outside is not None or "Pending" in str(returned)


def _add(name: str) -> str:
    return f"add {name}=http://HOST:PORT to SAGABOX_PEERS of the service"
