"""The receiver: `POST /messages`, which takes other services' messages in.

A request is read up to a limit, its signature is checked before anything in it is believed, then it
is parsed and given to the inbox. The answer is 200 with a reply per message, or a problem if none
was taken. Retrying is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from outbox.clock import Clock
from outbox.errors import OutboxError, UntrustedRequest
from outbox.inbox.inbox import Inbox
from outbox.transports.http.door import CONCURRENCY, MAX_BODY_BYTES, MAX_MESSAGES, Door, problem_of
from outbox.transports.http.problems import HttpProblem, documented
from outbox.transports.http.signing import DATABASE_HEADER, TARGET_HEADER, TO_HEADER, Keyring
from outbox.wire.envelope import (
    BATCH,
    JSON,
    STRUCTURED,
    Envelope,
    from_batch,
    from_binary,
    from_structured,
    replies_to_batch,
)

READ_WITHIN = 10.0
"""Seconds within which a body must have come."""

_PROBLEMS = documented(
    {
        400: "The body is no CloudEvent as described; the detail names position and attribute",
        401: "The signature is absent, wrong, stale or made with an unknown key",
        408: "The body did not come in time",
        413: "The body or the number of messages is above the limit",
        415: "The body has a content type that is not understood",
        421: "The messages are meant for the same service on another database",
        503: "The service has no room, or its database is away; send the same request again",
    }
)
_EVENT = {
    "schema": {"type": "object", "description": "A CloudEvent 1.0; see docs/guide/messages.md"}
}
_EVENTS = {"schema": {"type": "array", "items": _EVENT["schema"]}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {BATCH: _EVENTS, STRUCTURED: _EVENT, JSON: {"schema": {}}},
    }
}


def receiver(
    inbox: Inbox,
    *,
    keys: Keyring,
    clock: Clock,
    max_body: int = MAX_BODY_BYTES,
    max_messages: int = MAX_MESSAGES,
    concurrency: int = CONCURRENCY,
    read_within: float = READ_WITHIN,
    ids: Callable[[], str] | None = None,
    skewed: Callable[[str, float], None] = lambda sender, seconds: None,
    database: Callable[[], str | None] = lambda: None,
) -> APIRouter:
    """A router with `POST /messages`.

    `concurrency` requests are worked on at once, and four times as many are read; the next one is
    told to come back. Nothing is read beyond `max_body` bytes or `read_within` seconds. `ids` makes
    the ids of the replies. `skewed` is told by how many seconds each sender's clock is ahead.
    `database` gives the id of the inbox's database, which each answer tells; a request that is
    meant for another one is refused.
    """
    door = Door(
        inbox,
        keys=keys,
        clock=clock,
        max_body=max_body,
        max_messages=max_messages,
        concurrency=concurrency,
        ids=ids,
        skewed=skewed,
        database=database,
    )
    return behind(door, read_within=read_within)


def behind(door: Door, *, read_within: float = READ_WITHIN) -> APIRouter:
    """The same for a door that there is already."""
    router = APIRouter(route_class=_PlainRoute)

    @router.post(
        "/messages",
        summary="Receive messages",
        description="Takes CloudEvents 1.0 in structured, batch or binary mode, signed with the "
        "services' shared secret, and answers with a batch of replies.",
        tags=["messages"],
        response_class=Response,
        responses={
            200: {"description": "One reply each", "content": {BATCH: _EVENTS}},
            **_PROBLEMS,
        },
        openapi_extra=_BODY,
    )
    async def receive_messages(request: Request) -> Response:
        answer = await answer_to(request)
        if (own := door.database()) is not None:
            answer.headers[DATABASE_HEADER] = own
        return answer

    async def answer_to(request: Request) -> Response:
        try:
            async with door.reading.place():
                body = await _read(request, door, read_within)
                target = _signed_target(request, door)
                now = door.require_signed(request.method, target, request.headers, body)
                envelopes = _parsed(request, body)
                settled = door.admit(envelopes, request.headers, now)
            async with door.working.place():
                replies = await door.take(envelopes, settled)
            answer = replies_to_batch(door.consumer, envelopes, replies, door.ids, door.clock.now())
            return Response(answer, media_type=BATCH)
        except HttpProblem as problem:
            return problem.to_response()
        except OutboxError as error:
            return problem_of(error).to_response()
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone

    return router


class _PlainRoute(APIRoute):
    """A route whose function reads the request itself: nothing of it is looked at before."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


async def _read(request: Request, door: Door, within: float) -> bytes:
    """The body. Raises HttpProblem as soon as it is too long or too slow."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:18]) > door.max_body:
        raise door.too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within):
            async for chunk in request.stream():
                size += len(chunk)
                if size > door.max_body:
                    raise door.too_large()
                chunks.append(chunk)
    except TimeoutError:
        raise HttpProblem(
            408,
            "body-too-slow",
            f"The body did not come within {within:g} s; nothing of it was used.",
            next_step="Send the request again.",
            headers={"connection": "close"},
        ) from None
    return b"".join(chunks)


def _signed_target(request: Request, door: Door) -> str:
    """The target that the signature is to fit. Raises UntrustedRequest where the request is for
    another service, or came on a way that its sender did not mean."""
    door.require_meant(request.headers)
    to, arrived = request.headers.get(TO_HEADER), _target(request)
    signed = request.headers.get(TARGET_HEADER, arrived)
    root = request.scope.get("root_path", "").rstrip("/")
    own = arrived.removeprefix(root) if arrived.startswith(f"{root}/") else arrived
    # A prefix that no one here knows of is only right for a request that no other service takes.
    if signed in (arrived, root + own) or (to is not None and signed.endswith(own)):
        return signed
    raise UntrustedRequest(
        f"the request was signed for the path {signed[:100]!r}, and came here at {arrived[:100]!r}",
        next_step="where a proxy takes a prefix off the path, tell the service (SAGABOX_ROOT_PATH, "
        "or --root-path of uvicorn), or let the sender name it: HttpTransport(..., to=...)",
    )


def _target(request: Request) -> str:
    path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def _parsed(request: Request, body: bytes) -> list[Envelope]:
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if "content-encoding" in request.headers:
        raise _unsupported(f"the content encoding {request.headers['content-encoding'][:50]!r}")
    if media_type == BATCH:
        return from_batch(body)
    if media_type == STRUCTURED:
        return [from_structured(body)]
    if "ce-specversion" in request.headers and media_type in ("", JSON):
        return [from_binary(request.headers, body)]
    raise _unsupported(f"the content type {content_type[:100]!r}" if content_type else "no type")


def _unsupported(what: str) -> HttpProblem:
    return HttpProblem(
        415,
        "unsupported-content",
        f"The body came with {what}, which is not understood here.",
        next_step=f"Send {BATCH} or {STRUCTURED}, or {JSON} with ce-* headers, not compressed.",
    )
