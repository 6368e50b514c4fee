"""The repairs that services declare for divergences: starting them, and waiting for their ends.

A repair is a saga, so it has a history, and is undone or visibly STUCK where it fails. An entity
with several is repaired by one after the other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

from orchestrator.cli.audit.columns import as_values
from orchestrator.cli.audit.divergences import Divergence
from orchestrator.cli.audit.rules import VARIABLE, Ruleset
from orchestrator.cli.terminal.client import Api
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.machine.instance import Status

_LOOK = 0.2  # seconds between two looks at a run


@dataclass(frozen=True)
class Planned:
    """A planned repair of one entity: the saga's name and its input."""

    saga: str
    entity: str
    id: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class Repaired:
    """The outcome of a repair. `saga_id` is None where another caller's run of it was active,
    `status` where it had not ended in time and is not STUCK."""

    planned: Planned
    saga_id: str | None
    status: str | None


def plan(divergences: Iterable[Divergence], rules: Ruleset) -> list[Planned]:
    """The repairs that can be started, each once."""
    found: dict[tuple[Any, ...], Planned] = {}
    for it in divergences:
        repair = it.wrong.repair
        if repair is None or (repair.trace is not None and it.saga_id is None):
            continue
        input_: dict[str, Any] = {repair.id: _typed(it, rules)}
        if repair.trace is not None:
            input_[repair.trace] = it.saga_id
        planned = Planned(repair.saga, it.entity, it.id, input_)
        found.setdefault((repair.saga, *sorted(input_.items())), planned)
    return list(found.values())


def require_sagas(api: Api, planned: Iterable[Planned]) -> None:
    """Raises CommandError where the orchestrator does not know all of these sagas."""
    known = {it["name"] for it in api.get("/definitions")["items"]}
    if missing := sorted({it.saga for it in planned} - known):
        raise CommandError(
            f"the orchestrator has no saga {' and '.join(missing)}",
            f"the declarations of {VARIABLE} name them as repairs",
            "add them to the orchestrator's SAGABOX_SAGAS, restart it, and repeat the command",
        )


def carry_out(
    api: Api,
    planned: Sequence[Planned],
    *,
    timeout: float,
    pause: Callable[[float], None] = time.sleep,
) -> list[Repaired]:
    """Start them, and wait up to `timeout` seconds in all for their ends. Raises CommandError."""
    end = time.monotonic() + timeout
    done: list[Repaired] = []
    for wave in _waves(planned):
        started = [(it, _start(api, it)) for it in wave]
        done += [Repaired(it, id_, _ended(api, id_, end, pause)) for it, id_ in started]
    return done


def _start(api: Api, planned: Planned) -> str | None:
    try:
        answer = api.post(f"/sagas/{quote(planned.saga, safe='')}", dict(planned.input))
    except CommandError as error:
        if error.code == "saga-active":
            return None
        raise
    return str(answer.body["id"])


def _ended(api: Api, id_: str | None, end: float, pause: Callable[[float], None]) -> str | None:
    if id_ is None:
        return None
    while True:
        run = api.get(f"/sagas/{id_}")
        if run["ended_at"] is not None or run["status"] == Status.STUCK:
            return str(run["status"])
        if time.monotonic() >= end:
            return None
        pause(_LOOK)


def _waves(planned: Sequence[Planned]) -> list[list[Planned]]:
    """The first repair of each entity, then the second of each that has two, and so on: sagas on
    one entity would keep each other out."""
    waves: list[list[Planned]] = []
    seen: Counter[str] = Counter()
    for it in planned:
        number = seen[it.id]
        seen[it.id] += 1
        if number == len(waves):
            waves.append([])
        waves[number].append(it)
    return waves


def _typed(divergence: Divergence, rules: Ruleset) -> Any:
    """The entity's id as JSON has it."""
    (subject,) = (it for it in rules.subjects if it.entity == divergence.entity)
    (value,) = as_values(subject.keeps.id, [divergence.id]) or [divergence.id]
    return str(value) if isinstance(value, UUID) else value
