"""The receiver of gRPC: `sagabox.v1.Messages`, which takes other services' messages in.

As over HTTP the signature is checked before anything in a request is believed, and the answer is a
reply for each message, or a status if none was taken. Retrying is safe.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from starlette.datastructures import Headers

from outbox.errors import OutboxError
from outbox.transports.grpc.envelopes import envelopes_in, response_of
from outbox.transports.grpc.statuses import refuse
from outbox.transports.grpc.transport import DELIVER
from outbox.transports.grpc.v1 import messages_pb2
from outbox.transports.http.door import Door, problem_of
from outbox.transports.http.problems import HttpProblem, unexpected
from outbox.transports.http.signing import DATABASE_HEADER

Context = grpc.aio.ServicerContext[Any, Any]


class MessagesService:
    """The service `sagabox.v1.Messages` behind that door."""

    name: str = messages_pb2.DESCRIPTOR.services_by_name["Messages"].full_name

    def __init__(self, door: Door) -> None:
        self._door = door
        self.max_request = door.max_body
        self._work: set[asyncio.Task[bytes]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server needs of it. The bytes come as they are: the signature covers them."""
        deliver: grpc.RpcMethodHandler[bytes, bytes]
        deliver = grpc.unary_unary_rpc_method_handler(self.deliver)
        return grpc.method_handlers_generic_handler(self.name, {"Deliver": deliver})

    async def deliver(self, body: bytes, context: Context) -> bytes:
        """The answer to one call of Deliver."""
        # A sender that gives up ends this coroutine, but not the transaction: what has begun is
        # finished, as over HTTP, and its repetition is answered.
        work = asyncio.create_task(self._answer(body, headers_of(context)))
        self._work.add(work)
        work.add_done_callback(self._ended)
        own = self._door.database()
        told = () if own is None else ((DATABASE_HEADER.lower(), own),)
        try:
            answer = await asyncio.shield(work)
        except HttpProblem as problem:
            await refuse(context, problem, told)
        except OutboxError as error:
            await refuse(context, problem_of(error), told)
        context.set_trailing_metadata(told)
        return answer

    async def drain(self) -> None:
        """Return when nothing is under way."""
        if self._work:
            await asyncio.wait([*self._work])

    async def _answer(self, body: bytes, headers: Headers) -> bytes:
        door = self._door
        async with door.working.place():
            if len(body) > door.max_body:
                raise door.too_large()
            door.require_meant(headers)
            now = door.require_signed("POST", DELIVER, headers, body)
            envelopes = envelopes_in(body)
            settled = door.admit(envelopes, headers, now)
            replies = await door.take(envelopes, settled)
            try:
                return response_of(envelopes, replies)
            except ValueError as error:
                raise unexpected() from error

    def _ended(self, work: asyncio.Task[bytes]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # its caller may be gone, and was told otherwise


def headers_of(context: Context) -> Headers:
    """The metadata of a call that is text; a key that came twice is there twice."""
    pairs = context.invocation_metadata() or ()
    return Headers(
        raw=[
            (key.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for key, value in pairs
            if isinstance(value, str)
        ]
    )
