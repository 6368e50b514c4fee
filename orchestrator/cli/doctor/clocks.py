"""The clock of this machine, held against others."""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, problem, warning

_AREA = "clock"
_NOTED = timedelta(seconds=5)
_NEXT = "let both machines keep their clocks by NTP: timedatectl status"


async def of_database(asked: Asked) -> list[Finding]:
    """The clock of the database's server. That of SQLite is this machine's own."""
    from sqlalchemy import func, select

    from outbox.clock import SystemClock
    from outbox.database.column_types import UtcDateTime

    if not asked.is_postgresql:
        return []
    clock = SystemClock()
    before = clock.now()
    theirs = await asked.connection.scalar(select(func.clock_timestamp(type_=UtcDateTime())))
    took = clock.now() - before
    assert theirs is not None, "a clock has a time"
    return [compared(asked.name, "the database's", theirs, before + took / 2, took)]


def compared(
    about: str, whose: str, theirs: datetime, ours: datetime, within: timedelta
) -> Finding:
    """How far the two are apart; `within` is how exact that is known. Messages are refused where
    the clocks of their sender and receiver are further apart than a signature's window."""
    from outbox.transports.http.signing import DEFAULT_WINDOW

    ahead = ours - theirs
    apart = abs(ahead) - within
    word = "ahead of" if ahead > timedelta() else "behind"
    told = f"this machine is {abs(ahead).total_seconds():.1f} s {word} {whose}"
    if apart > timedelta(seconds=DEFAULT_WINDOW):
        return problem(_AREA, about, f"{told}, so that signatures are refused", _NEXT)
    if apart > _NOTED:
        return warning(_AREA, about, told, _NEXT)
    return ok(_AREA, about, f"agrees with {whose}")
