"""Problems as statuses of gRPC, and what a status says of the messages that were sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc

from outbox.safe_text import fit
from outbox.transports.base import Unacceptable, Unreachable
from outbox.transports.http.problems import ANOTHER_DATABASE, TOO_BUSY, HttpProblem
from outbox.transports.http.transport import MAX_RETRY_AFTER

CODE = "sagabox-code"
"""The trailer with the code of a problem. Only a service sets it: what gRPC itself says, here or
there, and what a proxy says, comes without it."""
RETRY_AFTER = "sagabox-retry-after"
"""The trailer with the seconds after which a repetition makes sense."""

_STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    410: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    421: grpc.StatusCode.FAILED_PRECONDITION,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}

# What no one says who has taken the messages.
_DECLINED = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


async def refuse(
    context: grpc.aio.ServicerContext[Any, Any],
    problem: HttpProblem,
    more: Sequence[tuple[str, str]] = (),
) -> NoReturn:
    """End the call with the status of that problem, and with more trailers."""
    trailers = [(CODE, problem.code), *more]
    if (wait := problem.headers.get("retry-after")) is not None:
        trailers.append((RETRY_AFTER, wait))
    await context.abort(
        _STATUSES.get(problem.status, grpc.StatusCode.INTERNAL),
        fit(f"{problem.detail} {problem.next_step}"),
        tuple(trailers),
    )
    raise AssertionError("abort() does not return")


def read_status(
    status: grpc.StatusCode, details: str, trailers: Mapping[str, str]
) -> Unreachable | Unacceptable:
    """The delivery that this status of a call means that was begun."""
    code = trailers.get(CODE)
    reason = fit(f"{status.name}: {details}" if details else status.name)
    match status:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return Unacceptable(reason)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if code is not None and code != TOO_BUSY:
            return Unacceptable(reason)
        case _:
            # Without the code, RESOURCE_EXHAUSTED may be about the answer, and UNAVAILABLE about a
            # connection that was lost after the messages were taken.
            declined = code in (TOO_BUSY, ANOTHER_DATABASE) or status in _DECLINED
            return Unreachable(reason, sent=not declined, retry_after=_wait(trailers))


def texts_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """The metadata that is text, by key."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _wait(trailers: Mapping[str, str]) -> float | None:
    try:
        wait = float(trailers[RETRY_AFTER])
    except (KeyError, ValueError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER) if math.isfinite(wait) else None
