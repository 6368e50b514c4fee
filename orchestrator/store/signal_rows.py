"""Signals as rows, which lie in the database until the owner of their run applies them.

Pure: a kind and a JSON text, and back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.errors import (
    ActiveAlready,
    IllegalSignal,
    InvalidInput,
    KeyReused,
    OrchestratorError,
    UnknownRun,
)
from orchestrator.machine.signals import (
    Buried,
    Cancel,
    OperatorSignal,
    Pause,
    Replied,
    Resolve,
    Resume,
    Retry,
    Skip,
    Terminate,
)
from outbox.wire import reply_json, strict_json

START = "start"
ASKED = "asked"
REPLIED = "replied"

OPERATOR: dict[str, type[Any]] = {
    it.__name__.lower(): it for it in (Cancel, Terminate, Retry, Skip, Resolve, Pause, Resume)
}
"""The signals of operators, by name."""


@dataclass(frozen=True, slots=True)
class StoredStart:
    """A start by message, as it is stored. `input` is JSON that is still unchecked; `trace` is the
    traceparent of the message; `begin_at` (UTC) is when the run is to begin, if not at once."""

    name: str
    input: Any
    originator: str
    trace: str | None = None
    begin_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AskedStart:
    """A start by a caller of a process that has no shards: the owner of the run's shard begins it,
    and leaves an answer. `input` is JSON; `key` is the caller's idempotency key, and `fingerprint`
    (hex) that of its request."""

    name: str
    input: Any
    trace: str | None = None
    begin_at: datetime | None = None
    key: str | None = None
    fingerprint: str | None = None


def to_row(saga_id: str, shard: int, kind: str, payload: str, made_at: datetime) -> dict[str, Any]:
    """The row of a signal with that kind and JSON, whose number the database gives."""
    return {
        "saga_id": saga_id,
        "shard": shard,
        "kind": kind,
        "payload": payload,
        "made_at": made_at,
    }


def dump(signal: Replied | Buried | OperatorSignal) -> tuple[str, str]:
    """The kind and the JSON of a signal."""
    if isinstance(signal, Replied):
        reply = strict_json.loads(reply_json.dumps(signal.reply))
        fields = {"command_id": signal.command_id, "reply": reply}
        if signal.source is not None:
            fields["source"] = signal.source
    else:
        fields = {it.name: getattr(signal, it.name) for it in dataclasses.fields(signal)}
    return type(signal).__name__.lower(), strict_json.dumps(fields).decode()


def dump_start(start: StoredStart) -> tuple[str, str]:
    """The kind and the JSON of a start."""
    fields = dataclasses.asdict(start)
    # Older code does not know the field, and takes in a start that has it not.
    del fields["begin_at"]
    if start.begin_at is not None:
        fields["begin_at"] = start.begin_at.isoformat()
    return START, strict_json.dumps(fields).decode()


def dump_asked(start: AskedStart) -> tuple[str, str]:
    """The kind and the JSON of such a start."""
    fields = dataclasses.asdict(start)
    if start.begin_at is not None:
        fields["begin_at"] = start.begin_at.isoformat()
    return ASKED, strict_json.dumps(fields).decode()


def load(kind: str, payload: str) -> Replied | Buried | OperatorSignal | StoredStart | AskedStart:
    """The stored signal or start. Raises ValueError where the row is not of this library."""
    fields = strict_json.loads(payload.encode())
    if not isinstance(fields, dict):
        raise ValueError("a stored signal is a JSON object")
    try:
        match kind:
            case "start" | "asked":
                begin_at = fields.pop("begin_at", None)
                later = None if begin_at is None else datetime.fromisoformat(begin_at)
                asked = StoredStart if kind == START else AskedStart
                return asked(**fields, begin_at=later)
            case "replied":
                reply = reply_json.loads(strict_json.dumps(fields["reply"]))
                return Replied(fields["command_id"], reply, fields.get("source"))
            case "buried":
                return Buried(**fields)
            case _ if kind in OPERATOR:
                signal: OperatorSignal = OPERATOR[kind](**fields)
                return signal
            case _:
                raise ValueError(f"there is no signal {kind!r}")
    except (TypeError, KeyError) as error:
        raise ValueError(f"the stored signal {kind!r} lacks or has too much: {error}") from None


def dump_started(saga_id: str, is_new: bool) -> str:
    """The outcome of a start, for the process that was asked."""
    return strict_json.dumps({"error": None, "id": saga_id, "is_new": is_new}).decode()


def load_started(answer: str, saga: str, key: str) -> tuple[str, bool]:
    """The run that a start of the saga for this saga key led to, and whether it is new. Raises what
    the owner raised."""
    fields = strict_json.loads(answer.encode())
    match fields["error"]:
        case None:
            return fields["id"], fields["is_new"]
        case "ActiveAlready":
            raise ActiveAlready(saga, key, fields["instance_id"])
        case "KeyReused":
            raise KeyReused(saga, fields["instance_id"])
        case _:
            raise InvalidInput(fields["problem"], next_step=fields["next_step"])


def dump_answer(error: OrchestratorError | None) -> str:
    """The outcome of an operator's signal, or the refusal of a start, for the process that was
    asked."""
    fields: dict[str, Any] = {}
    match error:
        case None:
            pass
        case ActiveAlready() | KeyReused():
            fields = {"instance_id": error.instance_id}
        case IllegalSignal():
            fields = {"problem": error.problem, "status": error.status, "allowed": error.allowed}
        case _:
            fields = {"problem": error.problem, "next_step": error.next_step}
    kind = None if error is None else type(error).__name__
    return strict_json.dumps({"error": kind, **fields}).decode()


def load_answer(answer: str, saga_id: str) -> OrchestratorError | None:
    """The error that the owner's machine raised; None where the signal was applied."""
    fields = strict_json.loads(answer.encode())
    match fields["error"]:
        case None:
            return None
        case "IllegalSignal":
            allowed = tuple(fields["allowed"])
            return IllegalSignal(fields["problem"], status=fields["status"], allowed=allowed)
        case "UnknownRun":
            return UnknownRun(saga_id)
        case _:
            return InvalidInput(fields["problem"], next_step=fields["next_step"])
