"""Rows as the API's answers. A run whose code is missing is shown as far as possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from sqlalchemy import Row

from orchestrator.api import waits
from orchestrator.api.models import (
    AddressOut,
    ArchivedOut,
    AwaitedOut,
    CauseOut,
    DefinitionInList,
    DefinitionOut,
    DirectionOut,
    EntryOut,
    HistoryRemovedOut,
    ParticipantOut,
    PendingOut,
    SagaOut,
    SilenceOut,
    StepDefinition,
    StepOut,
    StepStatusOut,
    StrayEffectOut,
    Summary,
)
from orchestrator.api.waits import Waiting, WaitsFor
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Awaited, Pended, StepRun
from orchestrator.machine.operator_rules import allowed_signals
from orchestrator.retention.archive.lines import ArchivedLine, ArchivedRow, InArchive
from orchestrator.retention.lookup import RemovedHistory
from orchestrator.store.records import Committed, Standing, record_of, standing_of, state_json
from outbox.safe_text import described
from outbox.transports.addresses.overview import Overview
from outbox.wire import strict_json, traceparent


def summary(row: Row[Any], registry: Registry, waiting: Mapping[str, Waiting]) -> Summary:
    """A run in a list; `waiting` are its steps that wait, by name."""
    parked = _parked(row, registry.find(row.name, row.version))
    return Summary(**_columns(row), **_in_the_way(parked, waiting))


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a run: `columns` are the fields of its summary that its row has under the
    same names. `standing` is None where what is stored cannot be read, and `parked` says why."""

    columns: Mapping[str, Any]
    definition: Saga[Any] | None
    originator: str | None
    trace: str | None
    state: dict[str, Any]
    standing: Standing | None
    allowed: tuple[str, ...]
    parked: str | None
    archived: InArchive | None = None


def shown_row(row: Row[Any] | ArchivedRow, registry: Registry) -> Shown:
    """A run as its row tells it, or its line in the archive."""
    definition = registry.find(row.name, row.version)
    parked = _parked(row, definition)
    standing: Standing | None = None
    allowed: tuple[str, ...] = ()
    try:
        standing = standing_of(row.document)
        if definition is not None:
            allowed = allowed_signals(definition, record_of(row, definition).instance)
    except ValueError as error:
        parked = parked or f"what is stored does not fit {definition or row.name}: " + described(
            error
        )
    return Shown(
        columns=_columns(row),
        definition=definition,
        originator=row.originator,
        trace=row.trace,
        state=_state(row.state),
        standing=standing,
        allowed=allowed,
        parked=parked,
        archived=row.archived if isinstance(row, ArchivedRow) else None,
    )


def shown_commit(committed: Committed, registry: Registry) -> Shown:
    """A run that a commit has just written, as its row tells it."""
    record, instance = committed.record, committed.record.instance
    definition = registry.get(instance.saga, instance.version)
    return Shown(
        columns={
            "id": instance.id,
            "name": instance.saga,
            "version": instance.version,
            "status": instance.status,
            "paused": instance.paused,
            "key": instance.key,
            "created_at": instance.created_at,
            "updated_at": committed.at,
            "ended_at": None if instance.ended is None else committed.at,
            "begin_at": instance.begin_at,
        },
        definition=definition,
        originator=record.originator,
        trace=record.trace,
        state=_state(state_json(definition, instance.state)),
        standing=record.standing,
        allowed=allowed_signals(definition, instance),
        parked=None,
    )


def saga(
    run: Shown,
    waiting: Mapping[str, Waiting],
    now: datetime,
    removed: RemovedHistory | None = None,
) -> SagaOut:
    """A run with all its details, as it stands `now`; `waiting` are its steps that wait, by name.
    `removed` tells of its history, where that was removed before it."""
    standing, definition = run.standing, run.definition
    return SagaOut(
        **run.columns,
        **_in_the_way(run.parked, waiting),
        originator=run.originator,
        trace_id=traceparent.trace_id(run.trace or traceparent.minted(run.columns["id"])),
        state=run.state,
        direction=None if standing is None else DirectionOut[standing.direction.name],
        cause=_cause(standing),
        not_undone=[] if standing is None else list(standing.not_undone),
        stray_effects=[] if standing is None else _stray_effects(standing),
        allowed=list(run.allowed),
        archived=_archived(run.archived),
        history_removed=history_removed(removed),
        steps=[]
        if standing is None
        else [
            _step(name, run, definition, waiting.get(name), now)
            for name, run in _in_order(standing.steps, definition)
        ],
    )


def _archived(where: InArchive | None) -> ArchivedOut | None:
    return None if where is None else ArchivedOut(at=where.at, place=where.place, file=where.file)


def history_removed(removed: RemovedHistory | None) -> HistoryRemovedOut | None:
    """What is told of a history that was removed before its run."""
    if removed is None:
        return None
    return HistoryRemovedOut(at=removed.at, place=removed.place, file=removed.file)


def _stray_effects(standing: Standing) -> list[StrayEffectOut]:
    return [
        StrayEffectOut(step=it.step, command_id=it.command_id, at=it.at)
        for it in standing.stray_effects
    ]


def _cause(standing: Standing | None) -> CauseOut | None:
    if standing is None or standing.cause is None:
        return None
    return CauseOut(code=standing.cause.code, reason=standing.cause.reason)


def entry(row: Row[Any] | ArchivedLine) -> EntryOut:
    """A line of the history."""
    return EntryOut(
        number=row.number,
        at=row.at,
        happening=row.happening,
        detail=row.detail,
        step=row.step,
        command_id=row.command_id,
        actor=row.actor,
    )


def definition_in_list(definition: Saga[Any], registry: Registry) -> DefinitionInList:
    """A definition in a list."""
    return DefinitionInList(
        name=definition.name,
        version=definition.version,
        fingerprint=definition.fingerprint,
        latest=registry.get(definition.name) is definition,
    )


def definition(shown: Saga[Any]) -> DefinitionOut:
    """A definition with its steps."""
    return DefinitionOut(
        name=shown.name,
        version=shown.version,
        fingerprint=shown.fingerprint,
        one_active=shown.one_active,
        participants=sorted(shown.participants),
        input=_schema_of(shown.state),
        steps=[
            StepDefinition(
                name=step.name,
                kind=step.kind,
                after=_after(step.name, shown),
                participant=shown.action_type(step.name).owner,
                action=str(shown.action_type(step.name)),
                compensation=_compensation(step.name, shown),
                deadline=step.deadline.total_seconds(),
            )
            for step in shown.steps
        ],
    )


def participant(name: str, overview: Overview) -> ParticipantOut:
    """A participant with its addresses."""
    return ParticipantOut(
        name=name,
        source=overview.source,
        database=overview.database,
        trouble=overview.trouble,
        addresses=[AddressOut(**asdict(it)) for it in overview.addresses],
    )


_COLUMNS = tuple(Summary.model_fields.keys() - {"parked", "waits_for", "step", "reason"})


def _columns(row: Row[Any] | ArchivedRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COLUMNS}


def _in_the_way(parked: str | None, waiting: Mapping[str, Waiting]) -> dict[str, Any]:
    step, told = waits.foremost(waiting) or (None, None)
    return {
        "parked": parked,
        "waits_for": None if told is None else told.what,
        "step": step,
        "reason": parked or (None if told is None else told.reason),
    }


def _parked(row: Row[Any] | ArchivedRow, definition: Saga[Any] | None) -> str | None:
    reason: str | None = row.parked
    if reason is None and definition is None and row.ended_at is None:
        return f"its definition {row.name} v{row.version} is not registered here"
    return reason


def _in_order(
    steps: Mapping[str, StepRun], definition: Saga[Any] | None
) -> list[tuple[str, StepRun]]:
    if definition is None:
        return list(steps.items())
    return [(step.name, steps[step.name]) for step in definition.steps if step.name in steps]


def _step(
    name: str, run: StepRun, definition: Saga[Any] | None, waiting: Waiting | None, now: datetime
) -> StepOut:
    return StepOut(
        name=name,
        kind=None if definition is None else definition.step(name).kind,
        status=StepStatusOut.WAITING if run.is_waiting else StepStatusOut[run.status.name],
        attempts=run.attempts,
        reason=run.reason,
        participant=None if definition is None else definition.action_type(name).owner,
        after=[] if definition is None else _after(name, definition),
        action=None if definition is None else str(definition.action_type(name)),
        compensation=None if definition is None else _compensation(name, definition),
        awaited=None if run.awaited is None else _awaited(run.awaited, waiting, now),
        waits_for=None if waiting is None else waiting.what,
    )


def _awaited(awaited: Awaited, waiting: Waiting | None, now: datetime) -> AwaitedOut:
    told = waiting or Waiting(WaitsFor.ANSWER)
    return AwaitedOut(
        id=awaited.id,
        type=awaited.type,
        wait=awaited.wait,
        sendings=awaited.sendings,
        deadline=awaited.deadline,
        tries=told.tries,
        error=told.error,
        next_at=told.next_at,
        silence=None
        if told.silence is None
        else SilenceOut(
            since=told.silence.since,
            deliveries=told.silence.deliveries,
            reason=told.silence.reason,
        ),
        pending=None if awaited.pending is None else _pending(awaited.pending, now),
    )


def _pending(pended: Pended, now: datetime) -> PendingOut:
    progress = pended.progress
    return PendingOut(
        since=progress.since,
        note=pended.note,
        expected_at=progress.expected_at,
        is_late=progress.expected_at is not None and progress.expected_at < now,
        attempt=progress.attempt or None,
        holder=progress.holder,
        until=progress.until,
    )


def _after(name: str, definition: Saga[Any]) -> list[str]:
    needed = definition.dependencies[name]
    return [step.name for step in definition.steps if step.name in needed]


def _compensation(name: str, definition: Saga[Any]) -> str | None:
    command = definition.compensations.get(name)
    return None if command is None else str(command.message_type)


def _state(text: str) -> dict[str, Any]:
    try:
        state = strict_json.loads(text.encode())
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def _schema_of(state: type[Any]) -> dict[str, Any]:
    try:
        return TypeAdapter(state).json_schema()
    except PydanticInvalidForJsonSchema:
        # Some types with a JSON form have no schema; they are objects all the same.
        return {"type": "object", "title": state.__name__}
