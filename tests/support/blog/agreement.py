"""Whether the three databases agree in the end, and nothing is left to be sent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.processes.child import Spec
from tests.support.databases.databases import Database
from tests.support.orchestrator.saga_writers import rows
from tests.support.processes import zygote
from tests.support.processes.waiting import until

_WAITING = ("outbox", "outbox_parked", "outbox_scheduled", "outbox_held")
_DEAD = "outbox_dead"


def waiting(databases: Mapping[str, Database]) -> dict[str, int]:
    """How many messages wait, by service and table; tables without any are left out."""
    return {
        f"{name}.{table}": count
        for name, database in databases.items()
        for table in _WAITING
        if (count := rows(database, f"SELECT count(*) FROM {table}")[0][0])
    }


async def until_all_is_sent(databases: Mapping[str, Database], deadline: float = 60) -> None:
    """Every outbox gets empty, and none has buried anything."""
    left: dict[str, int] = {}

    def empty() -> bool:
        left.clear()
        left.update(waiting(databases))
        return not left

    try:
        await until(empty, deadline, "no message is left in any outbox")
    except AssertionError as error:
        error.add_note(f"left: {left}")
        raise
    for name, database in databases.items():
        dead = rows(database, f"SELECT type, destination, reason FROM {_DEAD}")
        assert dead == [], f"{name} has buried {dead}"


@dataclass(frozen=True)
class Audited:
    """How `sagabox audit --json` ended, and what it printed."""

    code: int
    told: str

    @property
    def document(self) -> dict[str, Any]:
        """What it printed."""
        found: dict[str, Any] = json.loads(self.told)
        return found


async def audited(
    databases: Mapping[str, Database], *options: str, timeout: float = 180
) -> Audited:
    """Run `sagabox audit --json` on these databases."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec(
            name="audit",
            command=(sys.executable, "-P", "-m", "orchestrator.cli", "audit", "--json", *options),
            environment={
                **os.environ,
                **{f"SAGABOX_DATABASE_URL_{it.upper()}": databases[it].url for it in databases},
            },
            url="",
            log=Path(folder) / "audit.log",
        )
        child = await zygote.start(spec)
        try:
            code = await asyncio.wait_for(child.wait(), timeout)
        finally:
            await child.kill()
        return Audited(code, spec.log.read_text("utf-8"))


async def assert_agreement(databases: Mapping[str, Database], deadline: float = 60) -> None:
    """Nothing is left to be sent, and the audit finds nothing."""
    await until_all_is_sent(databases, deadline)
    found = await audited(databases)
    assert found.code == 0, found.told
