"""The ends of runs in a group commit: the event SagaEnded, for each service that asked for the run.

The end of a run with aliases is also told to the services behind these starts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.engine.commits.changes import Changes
from orchestrator.machine.instance import Instance
from orchestrator.store import outgoing
from orchestrator.store.records import state_json
from orchestrator.store.sharding import shard_of
from outbox import tracing
from outbox.contract import SagaEnded
from outbox.wire import strict_json
from outbox.wire.traceparent import minted

log = logging.getLogger(__name__)

MAX_STATE_BYTES = 64 * 1024
"""Bytes of a final state, as JSON, that go into the event SagaEnded; a larger one is left out."""


def may_have_aliases(changes: Changes, instance: Instance[Any]) -> bool:
    """Whether that run may have aliases."""
    return changes.registry.get(instance.saga, instance.version).one_active


def tell_originators(changes: Changes) -> Sequence[str]:
    """Add SagaEnded for each run that ended. Returns those whose aliases are to be told too."""
    for saga_id in changes.ended:
        record = changes.records[saga_id]
        _tell_of_end(
            changes, saga_id, saga_id, record.originator, record.start_id, record.traceparent
        )
    return [it for it in changes.ended if may_have_aliases(changes, changes.records[it].instance)]


async def tell_aliases(changes: Changes, named: Sequence[str]) -> None:
    """Add SagaEnded for each alias of these runs. Call it after their ends are written; no alias
    can be added after that."""
    if not named:
        return
    for alias in await changes.ports.starts.aliases(changes.connection, named):
        trace = alias.trace or minted(alias.id)
        _tell_of_end(changes, alias.id, alias.saga_id, alias.originator, alias.start_id, trace)


def _tell_of_end(
    changes: Changes,
    told: str,
    saga_id: str,
    originator: str | None,
    start_id: str | None,
    trace: str,
) -> None:
    if originator is not None:
        event = _event(changes, told, changes.records[saga_id].instance)
        add_saga_ended(changes, originator, event, shard_of(saga_id), start_id, trace)


def _event(changes: Changes, told: str, instance: Instance[Any]) -> SagaEnded:
    cause = instance.cause
    return SagaEnded(
        told,
        instance.status.value,
        code=None if cause is None else cause.code,
        reason=None if cause is None else cause.reason,
        state=_told_state(changes.registry.get(instance.saga, instance.version), instance.state),
    )


def _told_state(saga: Saga[Any], state: object) -> dict[str, Any] | None:
    """The state for the event; None where it is too large, or no message could carry it, such as
    an integer of more than 64 bits. A run must end all the same."""
    text = state_json(saga, state).encode()
    if len(text) > MAX_STATE_BYTES:
        return None
    try:
        value = strict_json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def add_saga_ended(
    changes: Changes,
    originator: str,
    event: SagaEnded,
    shard: int,
    start_id: str | None,
    trace: str,
) -> None:
    """Add SagaEnded for that service, or a line to the log where its address is unknown."""
    if originator not in changes.registry.participants:
        log.warning(
            "the address of %s is unknown; it is not told of saga %s",
            originator,
            event.instance_id,
            extra={"saga": event.instance_id, **tracing.fields_of_trace(trace)},
        )
        return
    changes.writes.messages.append(
        outgoing.ended(
            *(event, originator, shard, changes.now),
            start_id=start_id,
            trace=trace,
            source=changes.source,
        )
    )
