"""The destinations that are paused: nothing is sent there until an operator resumes them."""

from __future__ import annotations

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, warning
from orchestrator.cli.terminal.times import lasting

_AREA = "pauses"


async def pauses(asked: Asked) -> list[Finding]:
    """A warning for each; nothing where there is none."""
    from outbox.destinations import list_paused

    return [
        warning(
            _AREA,
            asked.name,
            f"{it.destination} has been paused for {lasting(asked.now - it.since)}: {it.reason}",
            f"sagabox destinations resume MODULE:{asked.name} {it.destination}",
        )
        for it in await list_paused(asked.connection, tables=asked.tables)
    ]
