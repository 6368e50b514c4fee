"""What a run waits for, step by step, from what was read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

from sqlalchemy import Row

from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Awaited, Pended, StepRun, StepStatus, Wait
from orchestrator.machine.signals import TimerKind
from orchestrator.retention.archive.lines import ArchivedRow
from orchestrator.store.records import Record, Standing, standing_of
from orchestrator.store.waits import Obstacles, Rest, SentCommand, Unanswering
from outbox.replies import Outcome


class WaitsFor(StrEnum):
    """What a step waits for. A run waits for what stands first here among its steps."""

    OPERATOR = "operator"
    """It is STUCK."""
    PARTICIPANT = "participant"
    """The participant gives no answer to any message."""
    RETRY = "retry"
    """A delivery of its command failed, and the next one is due later."""
    LOCK = "lock"
    """Another operation holds the entity."""
    ANEW = "anew"
    """It was answered with a "no" where it must succeed, and a new command goes out later."""
    ONGOING = "ongoing"
    """The participant is at work on it, and is asked again later."""
    PENDING = "pending"
    """The participant has begun, and its answer comes later."""
    RESUME = "resume"
    """The run is paused, and sends nothing."""
    ANSWER = "answer"
    """Its command is on its way, or is being handled."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A step that waits. `tries` counts the tries in vain, the last of which led to `error`;
    `next_at` is when the next one is due, where that is known. `silence` is the participant's,
    where it gives no answer; `note` says in its words what an answer that comes later waits for."""

    what: WaitsFor
    tries: int = 0
    error: str | None = None
    next_at: datetime | None = None
    silence: Unanswering | None = None
    note: str | None = None

    @property
    def reason(self) -> str | None:
        """Why it waits, where more is known than the word."""
        return (self.silence.reason if self.silence else self.error or self.note) or None


_REPEATED = {Outcome.LOCKED.value: WaitsFor.LOCK, Outcome.ONGOING.value: WaitsFor.ONGOING}


@dataclass(frozen=True)
class LiveRun:
    """A run that has not ended, as its row tells it; `definition` is None where that is not
    registered."""

    shard: int
    standing: Standing
    definition: Saga[Any] | None

    def sent(self) -> list[SentCommand]:
        """Its commands that were sent and are to be answered. Without the definition there are
        none, since their participants are unknown."""
        return [
            SentCommand(run.awaited.id, run.awaited.key, self.shard, participant)
            for name, run in self.standing.steps.items()
            if run.awaited is not None
            and run.awaited.wait is Wait.ANSWER
            and (participant := self._participant(name)) is not None
        ]

    def waiting(self, obstacles: Obstacles) -> Mapping[str, Waiting]:
        """Its steps that wait, by name; `obstacles` are those of what was `sent`."""
        found = {
            name: self._waiting(name, run, obstacles) for name, run in self.standing.steps.items()
        }
        return {name: it for name, it in found.items() if it is not None}

    def _participant(self, step: str) -> str | None:
        if self.definition is None or step not in self.definition.actions:
            return None
        return self.definition.action_type(step).owner

    def _waiting(self, name: str, run: StepRun, obstacles: Obstacles) -> Waiting | None:
        awaited = run.awaited
        if run.status is StepStatus.STUCK:
            return Waiting(WaitsFor.OPERATOR, run.tries, run.reason)
        if awaited is None:
            return None
        match awaited.wait:
            case Wait.SENDING:
                return Waiting(WaitsFor.RESUME)
            case Wait.ANSWER:
                silence = obstacles.silent.get((self.shard, self._participant(name) or ""))
                return _unanswered(run, obstacles.rests.get(awaited.id), silence)
            case Wait.ACCEPTED:
                if awaited.pending is None:
                    return Waiting(WaitsFor.ANSWER, next_at=self._due(awaited))
                return _pending(awaited.pending, self._due(awaited))
            case Wait.REPEAT:
                what = _repeated(run.reason) or WaitsFor.ONGOING
                return Waiting(what, run.tries, run.reason, self._due(awaited))
            case Wait.ANEW:
                return Waiting(WaitsFor.ANEW, run.tries, run.reason, self._due(awaited))
            case _:
                assert_never(awaited.wait)

    def _due(self, awaited: Awaited) -> datetime | None:
        for timer in self.standing.timers:
            if timer.kind is TimerKind.REPEAT and timer.command_id == awaited.id:
                return timer.due
        return None


def live_run(row: Row[Any] | ArchivedRow, registry: Registry) -> LiveRun | None:
    """The run in that row; None where it has ended, or cannot be read."""
    if row.ended_at is not None:
        return None
    try:
        standing = standing_of(row.document)
    except ValueError:
        return None
    return LiveRun(row.shard, standing, registry.find(row.name, row.version))


def live_run_of(record: Record, registry: Registry) -> LiveRun | None:
    """The same of a run in memory."""
    instance = record.instance
    if instance.ended is not None:
        return None
    definition = registry.find(instance.saga, instance.version)
    return LiveRun(record.shard, record.standing, definition)


def foremost(waiting: Mapping[str, Waiting]) -> tuple[str, Waiting] | None:
    """The step that is most in the way of a run of which these steps wait, by name."""
    order = list(WaitsFor)
    return min(waiting.items(), key=lambda it: order.index(it[1].what), default=None)


def _unanswered(run: StepRun, rest: Rest | None, silence: Unanswering | None) -> Waiting:
    """What a step waits for whose command was sent."""
    if silence is not None and rest is not None:
        next_at = max(rest.next_at, silence.next_at)
        return Waiting(WaitsFor.PARTICIPANT, rest.attempts, rest.error, next_at, silence)
    if silence is not None:
        return Waiting(WaitsFor.PARTICIPANT, next_at=silence.next_at, silence=silence)
    if rest is not None:
        return Waiting(WaitsFor.RETRY, rest.attempts, rest.error, rest.next_at)
    if run.awaited is not None and run.awaited.pending is not None:
        return _pending(run.awaited.pending, None)
    if what := _repeated(run.reason):
        # The copy that is on its way now may be answered otherwise.
        return Waiting(what, run.tries, run.reason)
    return Waiting(WaitsFor.ANSWER)


def _pending(pended: Pended, next_at: datetime | None) -> Waiting:
    return Waiting(WaitsFor.PENDING, next_at=next_at, note=pended.note)


def _repeated(reason: str | None) -> WaitsFor | None:
    """What the answer means after which the same command is sent again; its text begins with the
    outcome. None for other texts."""
    return _REPEATED.get((reason or "").partition(":")[0])
