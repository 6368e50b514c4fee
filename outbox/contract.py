"""The messages between a service and the orchestrator of sagas. This package only carries them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from outbox.messages import Command, Event


@dataclass(frozen=True)
class StartSaga(Command[None], type="orchestrator.start-saga.v1", key="instance_id"):
    """Begin the saga `name` with this input, under this id (a UUIDv7 that the sender made).

    A start is known by its instance: sent twice, it begins one saga. The id is used once, for ever:
    another saga, input or sender under it is refused. With `begin_at` (aware) the saga begins then,
    or at once where that is past; until then it stands as SCHEDULED.
    """

    name: str
    input: dict[str, Any]
    instance_id: str
    begin_at: datetime | None = None


@dataclass(frozen=True)
class SagaEnded(Event, type="orchestrator.saga-ended.v1", key="instance_id"):
    """The saga of that id has ended, for the service that asked for it.

    `status` is the final one: COMPLETED, COMPENSATED, RESOLVED or TERMINATED. It is REFUSED where
    the start was refused, so that nothing was ever done by it; with the `code` "id-reused" the id
    is that of another start, of which this says nothing.

    `code` and `reason` say why it turned back or was ended by hand, in the words of the participant
    that refused, or of the operator; both are None where nothing of that kind happened. `state` is
    the final state as JSON; None where there is none, it has more than 64 KiB, or no message could
    carry it. A message that asks once more for a run which has ended gets no state.
    """

    instance_id: str
    status: str
    code: str | None = None
    reason: str | None = None
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class SagaStuck(Event, type="orchestrator.saga-stuck.v1", key="instance_id"):
    """The run of that id of the saga `name` needs an operator, since `step` cannot go on for that
    `reason`. Where another of its steps gets stuck, or the same one again, that is another event.
    """

    instance_id: str
    name: str
    step: str
    reason: str


@dataclass(frozen=True)
class CommandAnswered(Event, type="orchestrator.reply.v1", key="instance_id"):
    """The reply to a command of the run `instance_id`, where it cannot come back on the command's
    own way. The other fields are those of a `Reply`; `outcome` is its word."""

    instance_id: str
    command_id: str
    outcome: str
    value: Any = None
    code: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    after_pending: bool = False


@dataclass(frozen=True)
class Void(Command[dict[str, Any]], type="orchestrator.void.v1", key="run_and_step"):
    """Let these commands never run, or tell what became of them. It goes to the participant of the
    commands, whose inbox answers it; `run_and_step` is their key.

    The answer is DONE, and has for each id an object: its `state` before this command (`ran`,
    `refused`, `undone`, `barred`, `pending`; `absent` where it had not come), and as `reply`, if
    there is one, the stored reply. Those that were absent or pending have no effect from now on.
    """

    ids: list[str]
    run_and_step: str


@dataclass(frozen=True)
class AreEnded(Command[None], type="orchestrator.are-ended.v1", key="consumer"):
    """The question which runs have ended, of those with numbers from `since` to below `before`. The
    inbox of `consumer` asks it, since it remembers their commands.

    The orchestrator answers by `RunsEnded`, to the sender's name.
    """

    consumer: str
    since: str
    before: str


@dataclass(frozen=True)
class RunsEnded(Event, type="orchestrator.runs-ended.v1", key="consumer"):
    """The answer to `AreEnded`, its cause: all runs with numbers from `since` to below `before`
    have ended, or never were, except those in `live`.

    `before` may be smaller than in the question; `is_more` says that this is because no more live
    runs could be named, so that it pays to ask for the rest. `database` is the id of the database
    that was asked; an older orchestrator does not tell it.
    """

    consumer: str
    since: str
    before: str
    live: list[str]
    is_more: bool
    database: str | None = None
