"""The leases in a database: which processes send from it, and which fell silent."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, warning
from orchestrator.cli.terminal.times import lasting

_AREA = "leases"


async def leases(asked: Asked) -> list[Finding]:
    """The holders, each with how much it holds; and what no process holds any more."""
    from sqlalchemy import select

    from outbox.database.time import DatabaseClock

    lease = asked.tables.outbox_lease
    clock = DatabaseClock(postgres=asked.is_postgresql, now=lambda: asked.now)
    statement = select(lease, clock.time.label("read_at")).where(lease.c.owner.is_not(None))
    rows = (await asked.connection.execute(statement)).all()
    if not rows:
        return [ok(_AREA, asked.name, "no process holds one: none has sent from here lately")]
    held = Counter(it.owner for it in rows if it.expires_at > it.read_at)
    found = [
        ok(_AREA, asked.name, f"{owner} holds {count}") for owner, count in sorted(held.items())
    ]
    stale: dict[str, list[Any]] = {}
    for row in rows:
        if row.expires_at <= row.read_at:
            stale.setdefault(row.owner, []).append(row)
    return found + [_stale(asked.name, owner, it) for owner, it in sorted(stale.items())]


def _stale(name: str, owner: str, rows: list[Any]) -> Finding:
    last: datetime = max(it.expires_at for it in rows)
    since = lasting(rows[0].read_at - last)
    destinations = ", ".join(sorted({it.destination for it in rows}))
    return warning(
        _AREA,
        name,
        f"no process holds {len(rows)} (to {destinations}): {owner} stopped or died {since} ago",
        f"start {name}: a process of it takes over what is due",
    )
