"""Signals as rows, which lie in the database until the owner of their run applies them.

Pure: a kind and a JSON text, and back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.errors import IllegalSignal, InvalidInput, OrchestratorError, UnknownRun
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


def load(kind: str, payload: str) -> Replied | Buried | OperatorSignal | StoredStart:
    """The stored signal or start. Raises ValueError where the row is not of this library."""
    fields = strict_json.loads(payload.encode())
    if not isinstance(fields, dict):
        raise ValueError("a stored signal is a JSON object")
    try:
        match kind:
            case "start":
                begin_at = fields.pop("begin_at", None)
                later = None if begin_at is None else datetime.fromisoformat(begin_at)
                return StoredStart(**fields, begin_at=later)
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


def dump_answer(error: OrchestratorError | None) -> str:
    """The outcome of an operator's signal, for the node that was asked."""
    fields: dict[str, Any] = {}
    match error:
        case None:
            pass
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
