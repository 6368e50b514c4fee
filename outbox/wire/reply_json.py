"""A `Reply` as JSON, for the inbox's rows and for the data of a reply's event."""

from __future__ import annotations

from typing import Any

from outbox.replies import Outcome, Reply
from outbox.wire import strict_json

MAX_TEXT_LENGTH = 2000


def dumps(reply: Reply) -> bytes:
    """Compact JSON with the fields that are set. Raises ValueError where `value` is no JSON.

    `code` and `reason` are cut to MAX_TEXT_LENGTH, and lose what a strict reader refuses.
    """
    fields: dict[str, Any] = {"outcome": reply.outcome.value}
    if reply.value is not None:
        fields["value"] = reply.value
    if reply.code is not None:
        fields["code"] = _readable(reply.code)
    if reply.reason is not None:
        fields["reason"] = _readable(reply.reason)
    if reply.retry_after is not None:
        fields["retry_after"] = reply.retry_after
    return strict_json.dumps(fields)


def loads(data: bytes | str) -> Reply:
    """The reply. Raises ValueError naming the field where `data` is not one."""
    fields = strict_json.loads(data.encode() if isinstance(data, str) else data)
    if not isinstance(fields, dict):
        raise ValueError("a reply is a JSON object")
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
    )


def _readable(text: str) -> str:
    # A reason is often the text of an exception, which may quote anything; one such reason must
    # not make the replies of a whole batch unreadable.
    text = text[:MAX_TEXT_LENGTH].replace("\0", "")
    return text.encode(errors="replace").decode()


def _optional_text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name!r} is {value!r}, not a text")
    return value
