"""A run as it is stored: rows to values, and back.

Pure. The state is written by the shape of its own class, so a field that the class no longer has is
ignored, and a missing one gets its default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import (
    Cause,
    Direction,
    Instance,
    Status,
    StepRun,
    StrayEffect,
)
from orchestrator.machine.signals import TimerKind
from orchestrator.machine.transition import Timer, Transition
from orchestrator.store.sharding import shard_of
from outbox.ids import derive, first_at, time_of
from outbox.replacing import quick, replace
from outbox.wire import strict_json
from outbox.wire.json_types import shape_of
from outbox.wire.traceparent import minted

_MINUTE = timedelta(minutes=1)


def number_of(instance_id: str, began: datetime) -> str:
    """The number of a run that begins at that time of the database. It tells the run's age, which
    the id does not, since the originator may have made it long before.

    An id that was made within a minute of the begin is also the number. So most runs have one value
    for both, and stand once in the list of live runs.
    """
    if abs(time_of(instance_id) - began) <= _MINUTE:
        return instance_id
    return derive(first_at(began), instance_id)


@quick
@dataclass(frozen=True, slots=True)
class StepSpan:
    """The span of a step's latest command, as a traceparent."""

    step: str
    trace: str


@quick
@dataclass(frozen=True, slots=True)
class Record:
    """The record of a run: the run, and the data stored beside it.

    `revision` counts its writes and `entries` the lines of its history. `due_at` is when the node
    looks at it next, no later than its first timer. `originator` is the service that is told of its
    end. `trace` is the traceparent of its start, and `start_id` the id of the start's message, if
    any. `number` tells the run's age; None for a run that has not begun, or began before there were
    numbers. `fingerprint` is that of its start, by `fingerprint_of`; None where older code took the
    start in. `spans` are those of the latest commands, where spans are made.
    """

    instance: Instance[Any]
    revision: int = 0
    entries: int = 0
    timers: tuple[Timer, ...] = ()
    due_at: datetime | None = None
    originator: str | None = None
    trace: str | None = None
    start_id: str | None = None
    number: str | None = None
    fingerprint: str | None = None
    spans: tuple[StepSpan, ...] = ()

    @property
    def traceparent(self) -> str:
        """The traceparent of its messages."""
        return self.trace or minted(self.instance.id)

    @property
    def shard(self) -> int:
        """The shard of the run."""
        return shard_of(self.instance.id)

    @property
    def standing(self) -> Standing:
        """What its row tells without its definition."""
        instance = self.instance
        return Standing(
            instance.steps,
            instance.direction,
            instance.not_undone,
            instance.cause,
            self.timers,
            instance.stray_effects,
        )

    def after(self, transition: Transition[Any], now: datetime) -> Record:
        """The same run after that transition, not yet written."""
        timers = _kept(self.timers, transition)
        return Record(
            instance=transition.instance,
            revision=self.revision,
            entries=self.entries + len(transition.history),
            timers=timers,
            due_at=_bound(self.due_at, timers, now),
            originator=self.originator,
            trace=self.trace,
            start_id=self.start_id,
            number=self.number,
            fingerprint=self.fingerprint,
            spans=self.spans,
        )

    def spans_of(self, steps: Collection[str]) -> Sequence[str]:
        """The traceparents of these steps' latest commands, as far as they had spans."""
        return [it.trace for it in self.spans if it.step in steps]

    def with_spans(self, made: Mapping[str, str]) -> Record:
        """The same run, with these spans of its steps' latest commands."""
        kept = {it.step: it.trace for it in self.spans} | dict(made)
        return replace(self, spans=tuple(StepSpan(*it) for it in kept.items()))


@quick
@dataclass(frozen=True, slots=True)
class Committed:
    """A run as a commit has left it, and that commit's time of the database."""

    record: Record
    at: datetime


def fingerprint_of(name: str, input: Any, originator: str | None) -> str:
    """The fingerprint of a start: of the saga, its input as JSON, and the service that asked."""
    asked = strict_json.dumps([name, input, originator], sort_keys=True)
    return hashlib.sha256(asked).hexdigest()


def active_key(saga: Saga[Any], instance: Instance[Any]) -> str | None:
    """The key that the run has for itself: only where its definition wants that, and from its begin
    to its end."""
    has_it = saga.one_active and instance.ended is None and instance.begin_at is None
    return instance.key if has_it else None


@quick
@dataclass(frozen=True, slots=True)
class _Document:
    """The parts of a run that no query selects by. Fields that have their defaults are not stored,
    which halves the text: so the defaults, here and in the classes of its parts, stay what they
    are."""

    steps: dict[str, StepRun]
    direction: Direction
    ended: Status | None = None
    not_undone: tuple[str, ...] = ()
    strays: int = 0
    timers: tuple[Timer, ...] = ()
    cause: Cause | None = None
    stray_effects: tuple[StrayEffect, ...] = ()
    spans: tuple[StepSpan, ...] = ()


_DOCUMENT = shape_of(_Document)


def state_json(saga: Saga[Any], state: object) -> str:
    """The state of a run as it is stored."""
    return shape_of(saga.state).write(state).decode()


def document_json(record: Record) -> str:
    """The content of the column `document`."""
    instance = record.instance
    document = _Document(
        steps=dict(instance.steps),
        direction=instance.direction,
        ended=instance.ended,
        not_undone=instance.not_undone,
        strays=instance.strays,
        timers=record.timers,
        cause=instance.cause,
        stray_effects=instance.stray_effects,
        spans=record.spans,
    )
    return _DOCUMENT.write_briefly(document).decode()


def record_of(row: Any, saga: Saga[Any]) -> Record:
    """The run in a row of the table `saga`. Raises ValueError where its state does not fit the
    definition's present class."""
    document: _Document = _DOCUMENT.read(row.document.encode())
    missing = [step.name for step in saga.steps if step.name not in document.steps]
    if missing:
        raise ValueError(f"the run knows nothing of step {missing[0]!r}")
    return Record(
        instance=Instance(
            id=row.id,
            saga=row.name,
            version=row.version,
            key=row.key,
            state=shape_of(saga.state).read(row.state.encode()),
            steps=document.steps,
            created_at=row.created_at,
            direction=document.direction,
            ended=document.ended,
            paused=row.paused,
            not_undone=document.not_undone,
            strays=document.strays,
            cause=document.cause,
            begin_at=row.begin_at,
            stray_effects=document.stray_effects,
        ),
        revision=row.revision,
        entries=row.entries,
        timers=document.timers,
        due_at=row.due_at,
        originator=row.originator,
        trace=row.trace,
        start_id=row.start_id,
        number=row.number,
        fingerprint=row.fingerprint,
        spans=document.spans,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of a stored run, as far as the row tells it without its definition."""

    steps: Mapping[str, StepRun]
    direction: Direction
    not_undone: tuple[str, ...]
    cause: Cause | None
    timers: tuple[Timer, ...]
    stray_effects: tuple[StrayEffect, ...] = ()


def standing_of(document: str) -> Standing:
    """The standing in the column `document`. Raises ValueError where it cannot be read."""
    read: _Document = _DOCUMENT.read(document.encode())
    return Standing(
        read.steps,
        read.direction,
        read.not_undone,
        read.cause,
        read.timers,
        read.stray_effects,
    )


def postponed(document: str, until: datetime) -> tuple[str, datetime | None]:
    """The column `document` with no deadline before `until`, and the time of its first timer.

    Raises ValueError where it cannot be read.
    """
    read: _Document = _DOCUMENT.read(document.encode())
    timers = tuple(
        replace(it, due=max(it.due, until)) if it.kind is TimerKind.DEADLINE else it
        for it in read.timers
    )
    steps = {name: _given_until(run, until) for name, run in read.steps.items()}
    written = _DOCUMENT.write_briefly(replace(read, steps=steps, timers=timers)).decode()
    return written, min((it.due for it in timers), default=None)


def _given_until(run: StepRun, until: datetime) -> StepRun:
    awaited = run.awaited
    if awaited is None or awaited.deadline is None:
        return run
    return replace(run, awaited=replace(awaited, deadline=max(awaited.deadline, until)))


def _kept(timers: tuple[Timer, ...], transition: Transition[Any]) -> tuple[Timer, ...]:
    """The timers that still guard an awaited command, or the begin: at most one of a kind for
    each."""
    instance = transition.instance
    if instance.ended is not None:
        return ()
    awaited = {it.id for run in instance.steps.values() for it in run.commands}
    if instance.begin_at is not None:
        awaited.add(instance.id)
    latest = {(it.kind, it.command_id): it for it in (*timers, *transition.timers)}
    return tuple(it for it in latest.values() if it.command_id in awaited)


def _bound(stored: datetime | None, timers: tuple[Timer, ...], now: datetime) -> datetime | None:
    """The time of the next look. A stored earlier time stays: looking in vain now and then costs
    less than an index entry for each step."""
    if not timers:
        return None
    first = min(timer.due for timer in timers)
    return stored if stored is not None and now < stored <= first else first
