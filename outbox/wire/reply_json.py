"""A `Reply` and its `Progress` as JSON, for the inbox's rows and the data of a reply's event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from outbox.replies import Outcome, Progress, Reply
from outbox.wire import strict_json

MAX_TEXT_LENGTH = 2000


def dumps(reply: Reply) -> bytes:
    """Compact JSON of `value_of`. Raises ValueError where `value` is no JSON."""
    return strict_json.dumps(value_of(reply))


def value_of(reply: Reply) -> dict[str, Any]:
    """The fields that are set. `code` and `reason` are cut to MAX_TEXT_LENGTH, and lose what a
    strict reader refuses."""
    fields: dict[str, Any] = {"outcome": reply.outcome.value}
    if reply.value is not None:
        fields["value"] = reply.value
    if reply.code is not None:
        fields["code"] = readable(reply.code)
    if reply.reason is not None:
        fields["reason"] = readable(reply.reason)
    if reply.retry_after is not None:
        fields["retry_after"] = reply.retry_after
    if reply.after_pending:
        fields["after_pending"] = True
    return fields


def loads(data: bytes | str) -> Reply:
    """The reply. Raises ValueError naming the field where `data` is not one."""
    fields = strict_json.loads(data.encode() if isinstance(data, str) else data)
    if not isinstance(fields, dict):
        raise ValueError("a reply is a JSON object")
    return from_fields(fields)


def from_fields(fields: Mapping[str, Any]) -> Reply:
    """The reply with these fields of its JSON. Raises ValueError naming the one that is wrong."""
    try:
        outcome = Outcome(str(fields.get("outcome")))
    except ValueError:
        known = ", ".join(Outcome)
        raise ValueError(f"'outcome' is {fields.get('outcome')!r}, none of {known}") from None
    wait = fields.get("retry_after")
    # In Python a bool is an int; in JSON it is no number.
    if wait is not None and (type(wait) not in (int, float) or wait < 0):
        raise ValueError(f"'retry_after' is {wait!r}, not a number of seconds")
    return Reply(
        outcome=outcome,
        value=fields.get("value"),
        code=_optional_text(fields, "code"),
        reason=_optional_text(fields, "reason"),
        retry_after=wait,
        after_pending=fields.get("after_pending") is True,
    )


def progress_json(progress: Progress) -> dict[str, Any]:
    """The value of a reply that tells this progress."""
    fields = {
        "since": progress.since.isoformat(),
        "expected_at": _written(progress.expected_at),
        "attempt": progress.attempt or None,
        "holder": progress.holder,
        "until": _written(progress.until),
    }
    return {name: value for name, value in fields.items() if value is not None}


def progress_of(reply: Reply) -> Progress | None:
    """The progress in a reply whose answer comes later; None where it tells none that can be read,
    since it only informs."""
    value = reply.value
    if not reply.is_pending or not isinstance(value, dict):
        return None
    try:
        attempt, holder = value.get("attempt"), value.get("holder")
        return Progress(
            since=_moment(value["since"]),
            expected_at=None if "expected_at" not in value else _moment(value["expected_at"]),
            attempt=attempt if type(attempt) is int and attempt > 0 else 0,
            holder=readable(holder)[:100] if isinstance(holder, str) else None,
            until=None if "until" not in value else _moment(value["until"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def readable(text: str) -> str:
    """The text, cut to MAX_TEXT_LENGTH, without what a strict reader or a database refuses."""
    # A reason is often the text of an exception, which may quote anything; one such reason must
    # not make the replies of a whole batch unreadable.
    text = text[:MAX_TEXT_LENGTH].replace("\0", "")
    return text.encode(errors="replace").decode()


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name!r} is {value!r}, not a text")
    return value
