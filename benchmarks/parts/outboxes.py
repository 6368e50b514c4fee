"""The outbox alone, next to other outboxes: writing, emptying, and from commit to handler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import program
from benchmarks.contenders.installed import ENVIRONMENTS, Environment, Missing
from benchmarks.contenders.program import Program
from benchmarks.figures import Figures
from benchmarks.measuring import percentile
from benchmarks.names import FASTSTREAM, OUTBOXES, P50, P99
from benchmarks.places import Place
from tests.support.databases.databases import schema_named

DRAINED = "drained a second"
HANDLER_P50, HANDLER_P99 = (f"{it} from commit to handler" for it in (P50, P99))

_DRAINED_WITHIN = 600.0


@dataclass(frozen=True)
class Outbox:
    """An outbox, by the program that uses it."""

    name: str
    program: str
    environment: Environment | None = None
    has_plain_url: bool = False
    """Whether its database is named without a driver."""


OF_FASTSTREAM = Outbox(FASTSTREAM, "outbox_faststream", ENVIRONMENTS[FASTSTREAM])
_CONTENDERS = (
    Outbox("outbox.add and the relay", "outbox_sagabox"),
    Outbox("written by hand, polled each second", "outbox_by_hand"),
    Outbox("procrastinate", "outbox_procrastinate", ENVIRONMENTS["procrastinate"], True),
    OF_FASTSTREAM,
)


async def measure(place: Place, figures: Figures, messages: int, events: int) -> None:
    """Each writes so many messages, in a transaction with a row each, one after the other; then a
    worker empties it, whose handler does nothing; then `events` are written one at a time."""
    for contender in _CONTENDERS:
        try:
            found = await measured(place, contender, messages, events)
        except Missing as error:
            figures.skipped[contender.name] = str(error)
        else:
            figures.add((place.name, OUTBOXES, contender.name), found)


async def measured(place: Place, contender: Outbox, messages: int, events: int) -> dict[str, float]:
    """The columns of one. Raises Missing."""
    database = place.fresh(schema_named("empty"))
    url = database.sync_url.replace("+psycopg", "") if contender.has_plain_url else database.url
    log = place.folder / f"{contender.program}.log"
    keys = [f"queued-{number}" for number in range(messages)]
    async with _role(contender, "prepare", url, log):
        pass
    async with _role(contender, "writer", url, log) as writer:
        written = await writer.ask({"write": keys}, _DRAINED_WITHIN)
        async with _role(contender, "worker", url, log) as worker:
            told = await worker.ask({"heard": messages}, _DRAINED_WITHIN)
            times = sorted(told["heard"].values())
            latencies = [
                await _alone(writer, worker, f"event-{number}", messages + number + 1)
                for number in range(events)
            ]
    return {
        "transactions a second": messages / written["seconds"],
        DRAINED: (messages - 1) / (times[-1] - times[0]),
        HANDLER_P50: percentile(latencies, 0.5) * 1000,
        HANDLER_P99: percentile(latencies, 0.99) * 1000,
    }


async def _alone(writer: Program, worker: Program, key: str, count: int) -> float:
    """Seconds from the commit of one message to its handler."""
    committed = (await writer.ask({"write": [key]}))["committed"][key]
    heard: float = (await worker.ask({"heard": count}))["heard"][key]
    seconds: float = max(0.0, heard - committed)
    return seconds


def _role(contender: Outbox, role: str, url: str, log: Path) -> Any:
    settings = {"role": role, "database": url}
    return program.running(contender.program, settings, log, contender.environment)
