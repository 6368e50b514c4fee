"""The log lines about committed steps of runs: at INFO what an operator may want to know, at ERROR
a step or an effect that needs one, at DEBUG every line of the history."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from opentelemetry.trace import SpanKind

from orchestrator.machine.transition import Entry, Happening
from orchestrator.store.records import Record
from outbox import tracing
from outbox.replacing import quick

log = logging.getLogger("orchestrator.runs")

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

_LEVELS = {
    Happening.REJECTED_ANSWER: logging.WARNING,
    Happening.TURNED_BACK: logging.INFO,
    Happening.STUCK: logging.ERROR,
    Happening.STRAY_EFFECT: logging.ERROR,
    Happening.OPERATOR: logging.INFO,
    Happening.ENDED: logging.INFO,
}


@quick
@dataclass(frozen=True, slots=True)
class News:
    """One new line of a run's history, and how the run stands after it."""

    record: Record
    entry: Entry


def worth_telling(record: Record, entries: Sequence[Entry]) -> list[News]:
    """The new entries of a run to tell: those that the log's level lets through, and its end."""
    if log.isEnabledFor(logging.DEBUG):
        return [News(record, entry) for entry in entries]
    return [
        News(record, entry)
        for entry in entries
        if (level := _LEVELS.get(entry.happening)) is not None
        and (log.isEnabledFor(level) or _is_end(entry))
    ]


def tell(news: Iterable[News]) -> None:
    """Log the news. With an SDK, a run that has ended is an INTERNAL span."""
    for it in news:
        level = _LEVELS.get(it.entry.happening, logging.DEBUG)
        if log.isEnabledFor(level):
            _tell(level, it.record, it.entry)
        if _is_end(it.entry):
            _make_span(it.record, it.entry)


def _tell(level: int, record: Record, entry: Entry) -> None:
    run = record.instance
    fields: dict[str, Any] = {
        "saga": run.id,
        "saga_name": run.saga,
        "step": entry.step,
        "message_id": entry.command_id,
        "actor": entry.actor,
    }
    log.log(
        level,
        "%s %s: %s%s",
        run.saga,
        entry.happening.value,
        "" if entry.step is None else f"{entry.step}: ",
        entry.detail,
        extra={name: value for name, value in fields.items() if value is not None}
        | tracing.fields_of_trace(record.traceparent),
    )


def _is_end(entry: Entry) -> bool:
    return entry.happening is Happening.ENDED and tracing.tracer_in_use() is not None


def _make_span(record: Record, entry: Entry) -> None:
    tracer = tracing.tracer_in_use()
    if tracer is None:
        return
    run = record.instance
    span = tracer.start_span(
        f"saga {run.saga}",
        tracing.context_of(record.traceparent),
        SpanKind.INTERNAL,
        {
            "sagabox.saga.id": run.id,
            "sagabox.saga.name": run.saga,
            "sagabox.saga.status": run.status.value,
        },
        start_time=_nanoseconds(run.created_at),
    )
    span.end(_nanoseconds(entry.at))


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
