"""The messages between a service and the orchestrator of sagas. This package only carries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outbox.messages import Command, Event


@dataclass(frozen=True)
class StartSaga(Command[None], type="orchestrator.start-saga.v1", key="instance_id"):
    """Begin the saga `name` with this input, under this id (a UUIDv7 that the sender made).

    A start is known by its instance: sent twice, it begins one saga.
    """

    name: str
    input: dict[str, Any]
    instance_id: str


@dataclass(frozen=True)
class SagaEnded(Event, type="orchestrator.saga-ended.v1", key="instance_id"):
    """The saga of that id has come to its end, for the service that asked for it.

    `status` is the final one: COMPLETED, COMPENSATED, RESOLVED or TERMINATED. It is REFUSED where
    the start could not be made, so that nothing was ever done.
    """

    instance_id: str
    status: str


@dataclass(frozen=True)
class CommandAnswered(Event, type="orchestrator.reply.v1", key="instance_id"):
    """The answer to a command of the run `instance_id`, where it cannot come back on the command's
    own way. The other fields are those of a `Reply`; `outcome` is the word of one."""

    instance_id: str
    command_id: str
    outcome: str
    value: Any = None
    code: str | None = None
    reason: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True)
class AreEnded(Command[None], type="orchestrator.are-ended.v1", key="consumer"):
    """Which runs have ended, of those whose numbers are `since` or greater and smaller than
    `before`? The inbox of `consumer` asks, which remembers what it did for them.

    The orchestrator answers by `RunsEnded`, to the sender's name.
    """

    consumer: str
    since: str
    before: str


@dataclass(frozen=True)
class RunsEnded(Event, type="orchestrator.runs-ended.v1", key="consumer"):
    """The answer to `AreEnded`, which caused it: of the runs with numbers from `since` up to and
    without `before` all have ended, or never were, except those in `live`.

    `before` may be smaller than it was in the question; `is_more` says that it is so because no
    more live runs could be named, and that it pays to ask for the rest.
    """

    consumer: str
    since: str
    before: str
    live: list[str]
    is_more: bool
