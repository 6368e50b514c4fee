"""The receiver: `POST /messages`, which takes other services' messages in.

A request is read up to a limit, its signature is checked before anything in it is believed, then it
is parsed and given to the inbox. The answer is 200 with a reply per message, or a problem if none
was taken. Retrying is safe.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect

from outbox.clock import Clock
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import MalformedEnvelope, OutboxError, UntrustedRequest
from outbox.ids import Ids
from outbox.inbox.inbox import Inbox
from outbox.transports.http.problems import (
    HttpProblem,
    documented,
    from_outbox_error,
    unexpected,
)
from outbox.transports.http.signing import (
    TARGET_HEADER,
    TO_HEADER,
    Keyring,
    skew_of,
    verify,
)
from outbox.wire import attributes
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
from outbox.wire.settled import SETTLED_HEADER, EndedSagas

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
MAX_MESSAGES = 500

FAR_OFF = 30.0
"""Seconds by which a sender's clock may differ before the log says so."""
_MOST_NAMED = 100
_READERS_PER_WORKER = 4
_RETRY_AFTER = 1.0

_PROBLEMS = documented(
    {
        400: "The body is no CloudEvent as described; the detail names position and attribute",
        401: "The signature is absent, wrong, stale or made with an unknown key",
        408: "The body did not come in time",
        413: "The body or the number of messages is above the limit",
        415: "The body has a content type that is not understood",
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
    concurrency: int = 8,
    read_within: float = 10.0,
    ids: Callable[[], str] | None = None,
    skewed: Callable[[str, float], None] = lambda sender, seconds: None,
) -> APIRouter:
    """A router with `POST /messages`.

    `concurrency` requests are worked on at once, and four times as many are read; the next one is
    told to come back. Nothing is read beyond `max_body` bytes or `read_within` seconds. `ids` makes
    the ids of the replies. `skewed` is told by how many seconds each sender's clock is ahead.
    """
    ids = ids or Ids(clock, os.urandom)
    door = _Door(inbox, keys, clock, max_body, max_messages, read_within, ids, skewed)
    reading = _Room(concurrency * _READERS_PER_WORKER)
    working = _Room(concurrency)
    router = APIRouter()

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
        try:
            async with reading.place():
                body = await door.read(request)
                envelopes, settled = door.open(request, body)
            async with working.place():
                return await door.take(envelopes, settled)
        except HttpProblem as problem:
            return problem.to_response()
        except OutboxError as error:
            return _problem(error).to_response()
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone

    return router


class _Room:
    """Room for `places` requests at once; a request that finds none does not wait."""

    def __init__(self, places: int) -> None:
        self._free = places

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Raises HttpProblem (503) where no place is free."""
        if self._free <= 0:
            raise HttpProblem(
                503,
                "too-busy",
                "The service works on as many requests as it can; nothing of this one was used.",
                next_step="Send the same request again after the time in Retry-After.",
                retry_after=_RETRY_AFTER,
                headers={"connection": "close"},
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class _Door:
    """The steps of one request, in their order: read, open, take."""

    def __init__(
        self,
        inbox: Inbox,
        keys: Keyring,
        clock: Clock,
        max_body: int,
        max_messages: int,
        read_within: float,
        ids: Callable[[], str],
        skewed: Callable[[str, float], None],
    ) -> None:
        self._inbox = inbox
        self._keys = keys
        self._clock = clock
        self._max_body = max_body
        self._max_messages = max_messages
        self._read_within = read_within
        self._ids = ids
        self._skewed = skewed
        self._far_off: set[str] = set()

    async def read(self, request: Request) -> bytes:
        """The body. Raises HttpProblem as soon as it is too long or too slow."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced[:18]) > self._max_body:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._read_within):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._max_body:
                        raise self._too_large()
                    chunks.append(chunk)
        except TimeoutError:
            raise HttpProblem(
                408,
                "body-too-slow",
                f"The body did not come within {self._read_within:g} s; nothing of it was used.",
                next_step="Send the request again.",
                headers={"connection": "close"},
            ) from None
        return b"".join(chunks)

    def open(self, request: Request, body: bytes) -> tuple[list[Envelope], EndedSagas | None]:
        """The request's messages, once its signature was checked. Raises UntrustedRequest,
        MalformedEnvelope, or HttpProblem."""
        now = self._clock.now()
        verify(
            self._keys,
            method=request.method,
            target=_signed_target(request, self._inbox.consumer),
            headers=request.headers,
            body=body,
            now=now,
        )
        envelopes = _parsed(request, body)
        if len(envelopes) > self._max_messages:
            raise HttpProblem(
                413,
                "too-many-messages",
                f"The batch has {len(envelopes)} messages, and {self._max_messages} are allowed; "
                "none of them was used.",
                next_step="Send smaller batches.",
            )
        for sender in {envelope.source for envelope in envelopes}:
            self._note_skew(sender, skew_of(request.headers, now))
        return envelopes, _statement(request)

    def _note_skew(self, sender: str, seconds: float) -> None:
        self._skewed(sender, seconds)
        if abs(seconds) < FAR_OFF:
            self._far_off.discard(sender)
        elif sender not in self._far_off and len(self._far_off) < _MOST_NAMED:
            self._far_off.add(sender)
            log.warning(
                "the clock of %s is %.0f s %s the one here; beyond %.0f s its messages are refused",
                sender,
                abs(seconds),
                "ahead of" if seconds > 0 else "behind",
                self._keys.window,
            )

    async def take(self, envelopes: list[Envelope], settled: EndedSagas | None) -> Response:
        """The replies. Raises HttpProblem where the database is in trouble."""
        try:
            replies = await self._inbox.receive(envelopes, settled)
        except Exception as error:
            raise _from_database(error) from error
        source, now = self._inbox.consumer, self._clock.now()
        return Response(
            replies_to_batch(source, envelopes, replies, self._ids, now), media_type=BATCH
        )

    def _too_large(self) -> HttpProblem:
        return HttpProblem(
            413,
            "body-too-large",
            f"The body is longer than {self._max_body} bytes; nothing of it was used.",
            next_step="Send smaller batches.",
            # The rest of the body must not be taken for the next request.
            headers={"connection": "close"},
        )


def _statement(request: Request) -> EndedSagas | None:
    header = request.headers.get(SETTLED_HEADER)
    if header is None:
        return None
    try:
        return EndedSagas.from_header(header)
    except MalformedEnvelope as error:
        # Without it the inbox only remembers for longer; no message may be refused or lost for it.
        log.warning("a statement about sagas is left out: %s", error)
        return None


def _signed_target(request: Request, consumer: str) -> str:
    """The target that the signature is to fit. Raises UntrustedRequest where the request is for
    another service, or came on a way that its sender did not mean."""
    to, arrived = request.headers.get(TO_HEADER), _target(request)
    if to is not None and to != attributes.quoted(consumer):
        raise UntrustedRequest(
            f"the request was signed for the service {to[:100]!r}, and this is {consumer}",
            next_step="correct the address of that service at its sender, or its name",
        )
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


def _problem(error: OutboxError) -> HttpProblem:
    problem = from_outbox_error(error)
    if not isinstance(error, MalformedEnvelope | UntrustedRequest):
        log.error("a request to /messages was not answered", exc_info=error)
    return problem


def _from_database(error: Exception) -> HttpProblem:
    """The problem for the sender where the inbox could not finish; the log has the cause."""
    # The inbox lets such errors through only where the database itself is in trouble.
    in_trouble = trouble_in_statement(error) is not Trouble.OWN
    if in_trouble or isinstance(error, DBAPIError):
        log.warning("the inbox cannot work with its database", exc_info=error)
        return HttpProblem(
            503,
            "database-unavailable",
            "The service's database is away, full, read only or without its tables, or did not "
            "confirm the commit.",
            next_step="Send the same messages again under the same ids: what took effect is "
            "recognised, and answered as it was. The service's log has the cause.",
            retry_after=_RETRY_AFTER,
        )
    log.error("a request to /messages failed", exc_info=error)
    return unexpected()
