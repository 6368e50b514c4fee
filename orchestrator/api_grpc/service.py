"""The service `sagabox.v1.Runs`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, unquote, urlencode

import grpc
import orjson
from google.protobuf.message import DecodeError, Message
from starlette.types import ASGIApp, Scope

from orchestrator.api_grpc.asking import Answer, asked
from orchestrator.api_grpc.v1 import runs_pb2 as v1
from outbox.chassis.access.caller import is_forwarding
from outbox.ids import is_id
from outbox.transports.grpc.receiver import Context, headers_of
from outbox.transports.grpc.statuses import refuse
from outbox.transports.http.door import MAX_BODY_BYTES
from outbox.transports.http.problems import HttpProblem, unexpected

R = TypeVar("R", bound=Message)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_PEER = re.compile(r"ipv[46]:\[?(?P<host>[0-9A-Fa-f:.]+)\]?:(?P<port>\d+)")
_PASSED_ON = ("authorization", "traceparent", "tracestate")
_HERE = "0.0.0.0"
"""Stands for the address that a connection from elsewhere came in by."""


class RunsService:
    """The service `sagabox.v1.Runs` of the orchestrator whose application that is.

    A call becomes the request that asks for the same over HTTP, with the caller's token and
    address: so that access, limits, answers and errors are the same.
    """

    name: str = v1.DESCRIPTOR.services_by_name["Runs"].full_name
    max_request = MAX_BODY_BYTES

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server needs of it. The bytes come as they are: gRPC itself would take those that
        are no request for a defect of this service."""

        def answering(
            kind: type[R], answer: Callable[[R, Context], Awaitable[v1.Run]]
        ) -> grpc.RpcMethodHandler[bytes, v1.Run]:
            async def read_and_answer(body: bytes, context: Context) -> v1.Run:
                return await answer(await _read(kind, body, context), context)

            return grpc.unary_unary_rpc_method_handler(
                read_and_answer, response_serializer=v1.Run.SerializeToString
            )

        async def read_and_watch(body: bytes, context: Context) -> AsyncIterator[v1.Event]:
            async for event in self.watch(await _read(v1.WatchRequest, body, context), context):
                yield event

        watch: grpc.RpcMethodHandler[bytes, v1.Event] = grpc.unary_stream_rpc_method_handler(
            read_and_watch, response_serializer=v1.Event.SerializeToString
        )
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Start": answering(v1.StartRequest, self.start),
            "Get": answering(v1.GetRequest, self.get),
            "Cancel": answering(v1.CancelRequest, self.cancel),
            "Watch": watch,
        }
        return grpc.method_handlers_generic_handler(self.name, methods)

    async def drain(self) -> None:
        """Nothing goes on behind a call that has ended."""

    async def start(self, request: v1.StartRequest, context: Context) -> v1.Run:
        """As `POST /sagas/{name}`."""
        if not _NAME.fullmatch(request.saga):
            await refuse(context, _no_definition(request.saga))
        headers = {"content-type": "application/json"}
        if request.idempotency_key:
            headers["idempotency-key"] = request.idempotency_key
        if request.wait:
            headers["prefer"] = f"wait={request.wait}"
        query = {"begin_at": request.begin_at} if request.begin_at else {}
        return await self._run(
            self._ask(context, "POST", f"/sagas/{request.saga}", request.input, headers, query),
            context,
        )

    async def get(self, request: v1.GetRequest, context: Context) -> v1.Run:
        """As `GET /sagas/{id}`."""
        await _require_id(request.id, context)
        return await self._run(self._ask(context, "GET", f"/sagas/{request.id}"), context)

    async def cancel(self, request: v1.CancelRequest, context: Context) -> v1.Run:
        """As `POST /sagas/{id}/cancel`."""
        await _require_id(request.id, context)
        body = {"reason": request.reason} | ({"actor": request.actor} if request.actor else {})
        headers = {"content-type": "application/json"}
        path = f"/sagas/{request.id}/cancel"
        return await self._run(
            self._ask(context, "POST", path, orjson.dumps(body), headers), context
        )

    async def watch(self, request: v1.WatchRequest, context: Context) -> AsyncIterator[v1.Event]:
        """As `GET /sagas/{id}/events`."""
        await _require_id(request.id, context)
        headers = {"last-event-id": str(request.after)} if request.after else {}
        path = f"/sagas/{request.id}/events"
        async with self._ask(context, "GET", path, headers=headers) as answer:
            if answer.status >= 400:
                await _refuse_as(answer, context)
            try:
                async for piece in answer.pieces:
                    for line in piece.splitlines():
                        if line.startswith(b"data: "):
                            yield v1.Event(**_fields(v1.Event, orjson.loads(line[6:])))
            except ConnectionError:
                await refuse(context, _broken_off())

    def _ask(
        self,
        context: Context,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Answer]:
        scope = _scope(context, method, path, {**(headers or {})}, urlencode(query or {}), body)
        return asked(self._app, scope, body)

    async def _run(self, asking: AbstractAsyncContextManager[Answer], context: Context) -> v1.Run:
        async with asking as answer:
            if answer.status >= 400:
                await _refuse_as(answer, context)
            try:
                document = await answer.whole()
            except ConnectionError:
                await refuse(context, _broken_off())
        return v1.Run(**_fields(v1.Run, orjson.loads(document)), document=document)


def _scope(
    context: Context, method: str, path: str, headers: dict[str, str], query: str, body: bytes
) -> Scope:
    """The request as ASGI has it, from the caller at the other end."""
    peer = _PEER.fullmatch(unquote(context.peer()))
    host, port = (None, 0) if peer is None else (peer["host"], int(peer["port"]))
    here = host if host is not None and _is_loopback(host) else _HERE
    for name, value in headers_of(context).items():
        # Access looks at what proxies add: without it a stranger would seem to be of this machine.
        if name in _PASSED_ON or is_forwarding(name):
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    headers["host"] = f"[{here}]" if ":" in here else here
    headers["content-length"] = str(len(body))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": method,
        "scheme": "http",
        "root_path": "",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode(),
        # Two keys must not become one: what is beyond ASCII arrives as bytes that are refused.
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": None if host is None else (host, port),
        "server": (here, 0),
    }


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.")


def _fields(message: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """What the message has of that document. What is null there is absent."""
    return {
        name: told[name] for name in message.DESCRIPTOR.fields_by_name if told.get(name) is not None
    }


async def _refuse_as(answer: Answer, context: Context) -> NoReturn:
    """End the call with the problem that the answer tells."""
    try:
        told = orjson.loads(await answer.whole())
        wait = answer.headers.get("retry-after")
        problem = HttpProblem(
            answer.status,
            told["code"],
            told["detail"],
            next_step=told["next_step"],
            retry_after=None if wait is None else float(wait),
        )
    except ConnectionError:
        problem = _broken_off()
    except (ValueError, KeyError, TypeError):
        problem = unexpected()
    await refuse(context, problem)


async def _read(kind: type[R], body: bytes, context: Context) -> R:
    """The request in those bytes; the call ends where they are none."""
    try:
        return kind.FromString(body)
    except DecodeError:
        await refuse(
            context,
            HttpProblem(
                400,
                "malformed-request",
                f"The bytes are no {kind.DESCRIPTOR.full_name}.",
                next_step="Send what orchestrator/api_grpc/v1/runs.proto declares.",
            ),
        )


async def _require_id(id: str, context: Context) -> None:
    if not is_id(id):
        await refuse(
            context,
            HttpProblem(
                404,
                "unknown-run",
                f"There is no saga {id[:100]!r}: that is no id.",
                next_step="Send the id in the answer to its start.",
            ),
        )


def _broken_off() -> HttpProblem:
    return HttpProblem(
        503,
        "answer-broken-off",
        "The service broke off its answer; what was asked for may have been done.",
        next_step="Ask again: start with the same idempotency key, and watch from the last line.",
        retry_after=1,
    )


def _no_definition(name: str) -> HttpProblem:
    return HttpProblem(
        404,
        "unknown-saga",
        f"There is no definition {name[:100]!r}.",
        next_step="Send the name of one that this orchestrator runs.",
    )
