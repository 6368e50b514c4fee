"""Problem details (RFC 9457): the form of an error that leaves a service over HTTP.

A problem says what happened (`detail`), what to do about it (`next_step`), and carries a short
stable word for programs (`code`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, Field
from starlette.responses import Response

from outbox.errors import (
    AlreadyAnswered,
    BelongsToSaga,
    CallUnderWay,
    ForgottenByReceiver,
    InvalidMessage,
    InvalidSelection,
    MalformedEnvelope,
    MessageTooLarge,
    NoSuchMessage,
    NotPendingYet,
    OutboxError,
    SchemaError,
    TooLate,
    TransactionLost,
    UntrustedRequest,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:sagabox:problem:"

# A 503 or a 421 without these codes may come from a proxy on the way.
TOO_BUSY = "too-busy"
"""The code of the one problem which says that nothing of a request was begun."""
ANOTHER_DATABASE = "another-database"
"""The code of the problem that the messages are meant for another database; none was used."""

_SCHEMA = {"$ref": "#/components/schemas/Problem"}


class Told(Protocol):
    """An error that says what happened, and what to do about it."""

    problem: str
    next_step: str


class Problem(BaseModel):
    """What went wrong, why, and what to do next."""

    type: str = Field(description="A URI that names the kind of problem")
    title: str = Field(description="The kind of problem in words; the same for every occurrence")
    status: int = Field(description="The HTTP status code")
    detail: str = Field(description="What happened this time")
    next_step: str = Field(description="What to do about it")
    code: str = Field(description="A short stable word for programs")


class HttpProblem(Exception):
    """An answer that is a problem. `retry_after` is in seconds and becomes `Retry-After`.

    `members` stand in the answer beside those that every problem has.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        next_step: str,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.next_step = next_step
        self.members = dict(members or {})
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))

    @classmethod
    def telling(
        cls,
        error: Told,
        status: int,
        code: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> HttpProblem:
        """The problem that says what an error of one of the packages says."""
        return cls(
            status,
            code,
            error.problem,
            next_step=error.next_step,
            retry_after=retry_after,
            headers=headers,
            members=members,
        )

    def to_response(self) -> Response:
        body = {
            **self.members,
            "type": TYPE_PREFIX + self.code,
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "next_step": self.next_step,
            "code": self.code,
        }
        # Plain ASCII, since a detail may quote what a client sent, which need not be encodable.
        content = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        return Response(content, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def unexpected() -> HttpProblem:
    """The answer to an unforeseen error; it shows nothing of the inside."""
    return HttpProblem(
        500,
        "unexpected-error",
        "The service met an error that it does not know.",
        next_step="Read before you repeat: the request may have taken effect. The service's log "
        "has the cause.",
    )


def from_outbox_error(error: OutboxError) -> HttpProblem:
    """How an error of the library looks from outside. One that is a mistake in the service's own
    code becomes the unexpected problem."""
    match error:
        case UntrustedRequest():
            status, code = 401, "untrusted-request"
        case MalformedEnvelope():
            status, code = 400, "malformed-envelope"
        case MessageTooLarge():
            status, code = 413, "message-too-large"
        case InvalidMessage():
            status, code = 422, "invalid-message"
        case InvalidSelection():
            status, code = 422, "invalid-selection"
        case NoSuchMessage():
            status, code = 404, "no-such-message"
        case BelongsToSaga():
            status, code = 409, "belongs-to-saga"
        case ForgottenByReceiver():
            status, code = 409, "forgotten-by-receiver"
        case NotPendingYet():
            status, code = 404, "not-pending"
        case TooLate():
            status, code = 409, "too-late"
        case AlreadyAnswered():
            status, code = 409, "already-answered"
        case CallUnderWay():
            status, code = 409, "call-under-way"
        case SchemaError():
            status, code = 503, "schema-not-right"
        case TransactionLost():
            status, code = 503, "transaction-lost"
        case _:
            return unexpected()
    return HttpProblem.telling(error, status, code, retry_after=1 if status == 503 else None)


def documented(statuses: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: which problems it answers with, and when."""
    return {
        status: {"description": when, "content": {MEDIA_TYPE: {"schema": dict(_SCHEMA)}}}
        for status, when in statuses.items()
    }
