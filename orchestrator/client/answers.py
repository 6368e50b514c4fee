"""What the orchestrator answers: runs, their histories, and refusals, which become errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import orjson

from orchestrator.client.requests import NO_ANSWER, Request
from orchestrator.errors import (
    ActiveAlready,
    IllegalSignal,
    InvalidInput,
    KeyReused,
    OrchestratorError,
    RequestRefused,
    Unavailable,
    UnknownDefinition,
    UnknownRun,
)
from orchestrator.machine.instance import Status
from outbox.errors import InvalidMessage
from outbox.wire.codec import decode_value


@dataclass(frozen=True)
class Silence:
    """A participant that gives no answer: so many deliveries in a row had none, from `since` on;
    `reason` says what became of the last one."""

    since: datetime
    deliveries: int
    reason: str


@dataclass(frozen=True)
class Pending:
    """An answer that comes later, as the participant has told it last: since when, and in `note`
    what or whom it waits for.

    `expected_at` is when it expected the answer, and `is_late` whether that has passed. Of a call
    to the outside, `attempt` counts from 1, `holder` is the process that makes it, and `until` when
    that is over; `attempt` is None where there is no call.
    """

    since: datetime
    note: str = ""
    expected_at: datetime | None = None
    is_late: bool = False
    attempt: int | None = None
    holder: str | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Awaited:
    """A command whose answer a step awaits. `tries` counts the tries in vain, the last of which led
    to `error`; `next_at` is when the next one is due, if one is. `pending` is set where the answer
    comes later."""

    id: str
    type: str
    tries: int = 0
    error: str | None = None
    next_at: datetime | None = None
    silence: Silence | None = None
    pending: Pending | None = None


@dataclass(frozen=True)
class Step:
    """One step of a run, as the orchestrator shows it. `reason` says why it was refused or is
    stuck; `waits_for` is the word for what it waits for, if it does."""

    name: str
    status: str
    attempts: int
    reason: str | None = None
    participant: str | None = None
    waits_for: str | None = None
    awaited: Awaited | None = None


@dataclass(frozen=True)
class Cause:
    """Why a run turned back, or was ended by a person."""

    code: str
    reason: str


@dataclass(frozen=True)
class StrayEffect:
    """An effect that the run does not account for: at that time the action with the id `command_id`
    reported success, when nothing could undo it any more."""

    step: str
    command_id: str
    at: datetime


@dataclass(frozen=True)
class RunState:
    """A run as it stood when it was asked for. `state` is its state as JSON; `allowed` names what
    may be done to it now; `waits_for` is the word for what is most in its way, `step` the name of
    the step that this is about; `reason` says why it is parked, or why that step is stuck or waits.
    `begin_at` is when it is to begin, None once it has begun."""

    id: str
    name: str
    version: int
    status: Status
    paused: bool
    key: str
    state: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    begin_at: datetime | None = None
    parked: str | None = None
    waits_for: str | None = None
    step: str | None = None
    reason: str | None = None
    cause: Cause | None = None
    not_undone: list[str] = field(default_factory=list)
    stray_effects: list[StrayEffect] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.ended_at is not None


@dataclass(frozen=True)
class Line:
    """One line of a run's history."""

    number: int
    at: datetime
    happening: str
    detail: str
    step: str | None = None
    command_id: str | None = None
    actor: str | None = None


def state_of(body: Any) -> RunState:
    """A run, from its JSON."""
    try:
        return decode_value(RunState, body)
    except InvalidMessage as error:
        raise _another_program(f"the answer is no run ({error.problem})", 200) from error


def run_id(body: Any) -> str:
    """The id in the answer to a start. Raises RequestRefused where it has none."""
    id = body.get("id")
    if not isinstance(id, str):
        raise _another_program("the answer to a start has no id", 200)
    return id


def no_answer(client: httpx.Client | httpx.AsyncClient, error: httpx.RequestError) -> Unavailable:
    """The error where the connection failed, or brought what is no answer."""
    why = str(error) or type(error).__name__
    return Unavailable(f"the orchestrator at {client.base_url} gave no answer ({why})")


def read(request: Request, answer: httpx.Response) -> Any:
    """The JSON of the answer. Raises the error that it tells of."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return body
    if isinstance(body, dict) and {"detail", "next_step", "code"} <= body.keys():
        raise _error(answer, body)
    if answer.status_code in NO_ANSWER:
        raise Unavailable(
            f"{request.method} {request.path} was answered with {answer.status_code} on the way to "
            "the orchestrator"
        )
    raise _another_program(
        f"{request.method} {request.path} was answered with {answer.status_code}",
        answer.status_code,
    )


def _another_program(problem: str, status: int) -> RequestRefused:
    return RequestRefused(
        f"{problem}, so that another program than an orchestrator listens there",
        next_step="check the client's address",
        status=status,
        code="no-orchestrator",
    )


def _error(answer: httpx.Response, body: dict[str, Any]) -> OrchestratorError:
    problem, step, code = str(body["detail"]).rstrip("."), str(body["next_step"]), body["code"]
    match code:
        case "unknown-saga":
            return UnknownDefinition(problem, next_step=step)
        case "unknown-run":
            return UnknownRun(answer.request.url.path.rpartition("/sagas/")[2].partition("/")[0])
        case "invalid-input":
            return InvalidInput(problem, next_step=step)
        case "idempotency-key-reused":
            saga = answer.request.url.path.rpartition("/")[2]
            return KeyReused(saga, str(body.get("first")))
        case "saga-active":
            saga = answer.request.url.path.rpartition("/")[2]
            return ActiveAlready(saga, "the same key", str(body.get("active")))
        case "illegal-signal":
            allowed = tuple(body.get("allowed") or ())
            return IllegalSignal(problem, status=str(body.get("saga_status")), allowed=allowed)
        case _ if answer.status_code == 503:
            return Unavailable(problem)
        case _:
            return RequestRefused(
                problem, next_step=step, status=answer.status_code, code=str(code)
            )
