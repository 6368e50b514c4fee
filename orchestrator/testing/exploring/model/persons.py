"""What a person may ask of a run, within an explored world."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Instance, StepStatus
from orchestrator.machine.operator_rules import allowed_signals
from orchestrator.machine.signals import (
    Cancel,
    OperatorSignal,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
    Terminate,
)
from orchestrator.testing.exploring.model.events import Event, What
from orchestrator.testing.exploring.model.faults import Price

Request = tuple[Event, OperatorSignal, Price]


def requests(
    saga: Saga[Any], instance: Instance[Any], replies: Mapping[str, Sequence[Any]]
) -> list[Request]:
    """All that is possible now. What a skipped step is taken to have answered is the first of its
    `replies`."""
    allowed = allowed_signals(saga, instance)
    return [it for it in _all(instance, replies) if it[0].what.value in allowed]


def _all(instance: Instance[Any], replies: Mapping[str, Sequence[Any]]) -> Iterator[Request]:
    yield Event(What.CANCEL), Cancel("-", "-"), ("cancels",)
    yield Event(What.PAUSE), Pause("-", "-"), ("pauses",)
    yield Event(What.RESUME), Resume("-", "-"), ()
    yield Event(What.TERMINATE), Terminate("-", "-"), ("terminations",)
    yield Event(What.RESOLVE), Resolve("-", "-"), ("resolutions",)
    for step, run in instance.steps.items():
        if run.status is StepStatus.STUCK:
            yield Event(What.RETRY, step), Retry(step, "-", "-"), ("retries",)
            yield Event(What.SKIP, step), Skip(step, "-", "-", replies[step][0]), ("skips",)
