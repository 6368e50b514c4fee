"""`sagabox.v1.Runs`: the orchestrator's API over gRPC, with the same tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import orjson
import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.api_grpc.service import RunsService
from orchestrator.api_grpc.v1 import runs_pb2 as v1
from outbox.chassis.access.caller import FORWARDING
from outbox.chassis.access.routes import Role
from outbox.transports.grpc.server import GrpcServer
from outbox.transports.grpc.statuses import CODE
from tests.support.blog.blog import new_id, running
from tests.support.blog.whole_blog import WholeBlog
from tests.support.databases.databases import Database
from tests.support.orchestrator.callers import give_token
from tests.support.orchestrator.orchestrating import noted_app

pytestmark = pytest.mark.databases("sqlite")
Status = grpc.StatusCode


class Runs:
    """A client of the service, with a token or without."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self.channel = channel
        self.metadata = [] if token is None else [("authorization", f"Bearer {token}")]

    async def call(self, name: str, request: Any) -> v1.Run:
        method: grpc.aio.UnaryUnaryMultiCallable[Any, v1.Run] = self.channel.unary_unary(
            f"/sagabox.v1.Runs/{name}", lambda it: it.SerializeToString(), v1.Run.FromString
        )
        return await method(request, metadata=self.metadata, timeout=30)

    def watch(self, id: str, after: int = 0) -> AsyncIterator[v1.Event]:
        method: grpc.aio.UnaryStreamMultiCallable[v1.WatchRequest, v1.Event]
        method = self.channel.unary_stream(
            "/sagabox.v1.Runs/Watch", v1.WatchRequest.SerializeToString, v1.Event.FromString
        )
        request = v1.WatchRequest(id=id, after=after)
        call = method(request, metadata=self.metadata, timeout=60)
        return aiter(call)


@asynccontextmanager
async def runs_of(blog: WholeBlog, *roles: Role | None) -> AsyncIterator[list[Runs]]:
    """A client for each role; None shows no token."""
    running = blog.services["orchestrator"]
    async with GrpcServer([RunsService(running.app)]).serving() as port:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        yield [
            Runs(
                channel, None if it is None else await give_token(running.chassis.database, it, it)
            )
            for it in roles
        ]
        await channel.close()


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), str(dict(error.trailing_metadata() or ()).get(CODE))


def deletion(article: str, **more: Any) -> v1.StartRequest:
    return v1.StartRequest(
        saga="delete-article", input=orjson.dumps({"article_id": article}), **more
    )


async def test_a_run_is_started_watched_and_found(blog: WholeBlog) -> None:
    article = await blog.publish()
    async with runs_of(blog, Role.OPERATOR) as (runs,):
        run = await runs.call("Start", deletion(article, idempotency_key="once"))
        assert (run.name, run.version, run.key) == ("delete-article", 1, article)
        again = await runs.call("Start", deletion(article, idempotency_key="once"))
        assert again.id == run.id
        assert await refusal(runs.call("Start", deletion(new_id(), idempotency_key="once"))) == (
            Status.INVALID_ARGUMENT,
            "idempotency-key-reused",
        )
        lines = [line async for line in runs.watch(run.id)]
        assert (lines[0].happening, lines[-1].happening) == ("started", "ended")
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        assert lines[-1].status == "COMPLETED"
        behind = [line.number async for line in runs.watch(run.id, after=3)]
        assert behind == [line.number for line in lines[3:]]
        ended = await runs.call("Get", v1.GetRequest(id=run.id))
        assert (ended.status, bool(ended.ended_at)) == ("COMPLETED", True)
        document = orjson.loads(ended.document)
        assert document["steps"][0]["status"] == "DONE"
        assert document["created_at"] == ended.created_at


async def test_a_start_waits_for_the_end_where_it_is_told_to(blog: WholeBlog) -> None:
    article = await blog.publish()
    async with runs_of(blog, Role.OPERATOR) as (runs,):
        assert (await runs.call("Start", deletion(article, wait=30))).status == "COMPLETED"


async def test_a_run_is_cancelled_with_a_reason_and_its_actor(blog: WholeBlog) -> None:
    article = await blog.publish()
    blog.open.clear()  # nothing reaches a participant
    async with runs_of(blog, Role.OPERATOR, Role.VIEWER) as (operator, viewer):
        run = await operator.call("Start", deletion(article))
        told: list[v1.Event] = []

        async def follow() -> None:
            async for line in viewer.watch(run.id):
                told.append(line)

        following = asyncio.create_task(follow())
        asked = v1.CancelRequest(id=run.id, reason="changed my mind", actor="ada")
        assert await refusal(viewer.call("Cancel", asked)) == (
            Status.PERMISSION_DENIED,
            "not-allowed",
        )
        assert (await operator.call("Cancel", asked)).status == "COMPENSATING"
        blog.open.set()
        await following
        assert told[-1].status == "COMPENSATED"
        (cancelled,) = [line for line in told if line.actor]
        assert cancelled.actor == "token operator (ada)"
        assert await refusal(operator.call("Cancel", asked)) == (
            Status.FAILED_PRECONDITION,
            "illegal-signal",
        )


@pytest.mark.parametrize(
    ("trusts", "metadata", "code"),
    [
        (False, [], "credentials-missing"),
        (False, [("authorization", "Bearer wrong")], "credentials-wrong"),
        (True, [("x-forwarded-for", "192.0.2.1")], "credentials-missing"),
        (True, [], "unknown-run"),
    ],
)
async def test_who_shows_no_right_token_is_not_let_in_unless_this_machine_is_trusted(
    database: Database, trusts: bool, metadata: list[tuple[str, str]], code: str
) -> None:
    async with (
        running(noted_app(database, trust_loopback=trusts)) as service,
        GrpcServer([RunsService(service.app)]).serving() as port,
    ):
        runs = Runs(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), None)
        runs.metadata = metadata
        for call in (
            runs.call("Get", v1.GetRequest(id=new_id())),
            runs.call("Cancel", v1.CancelRequest(id=new_id(), reason="no")),
            anext(runs.watch(new_id())),
        ):
            assert (await refusal(call))[1] == code
        await runs.channel.close()


async def test_a_caller_through_a_proxy_is_none_of_this_machine_by_each_header_of_proxies(
    database: Database,
) -> None:
    async with (
        running(noted_app(database, trust_loopback=True)) as service,
        GrpcServer([RunsService(service.app)]).serving() as port,
    ):
        runs = Runs(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), None)
        for name in sorted(FORWARDING | {"x-forwarded-proto", "x_real_ip"}):
            runs.metadata = [(name, "192.0.2.1")]
            told = await refusal(runs.call("Get", v1.GetRequest(id=new_id())))
            assert told == (Status.UNAUTHENTICATED, "credentials-missing"), name
        await runs.channel.close()


async def test_an_answer_that_is_broken_off_does_not_look_like_the_end_of_the_run() -> None:
    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        line = b'data: {"number": 1, "happening": "started"}\n\n'
        await send({"type": "http.response.body", "body": line, "more_body": True})

    async with GrpcServer([RunsService(breaks_off)]).serving() as port:
        runs = Runs(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), None)
        lines = runs.watch(new_id())
        assert (await anext(lines)).happening == "started"
        for call in (anext(lines), runs.call("Get", v1.GetRequest(id=new_id()))):
            assert await refusal(call) == (Status.UNAVAILABLE, "answer-broken-off")
        await runs.channel.close()


async def test_a_key_that_no_header_can_carry_is_refused_and_never_taken_for_another(
    blog: WholeBlog,
) -> None:
    article = await blog.publish()
    async with runs_of(blog, Role.OPERATOR) as (runs,):
        for key in ("\u0434\u0430", "\u043d\u0435", "\u00e9", " once", "a\nb"):
            asked = runs.call("Start", deletion(article, idempotency_key=key))
            assert await refusal(asked) == (Status.INVALID_ARGUMENT, "invalid-request"), key


async def test_what_does_not_fit_is_told_as_over_http(blog: WholeBlog) -> None:
    async with runs_of(blog, Role.ADMIN) as (runs,):
        for request, expected in [
            (v1.StartRequest(saga="delete-article", input=b"{"), Status.INVALID_ARGUMENT),
            (v1.StartRequest(saga="delete-article", input=b"{}"), Status.INVALID_ARGUMENT),
            (v1.StartRequest(saga="no-such-saga", input=b"{}"), Status.NOT_FOUND),
            (v1.StartRequest(saga="delete-article/../x", input=b"{}"), Status.NOT_FOUND),
            (v1.StartRequest(input=b"{}"), Status.NOT_FOUND),
        ]:
            assert (await refusal(runs.call("Start", request)))[0] is expected, request
        for id in ("", "counts", "x/../y", new_id()):
            known = Status.NOT_FOUND, "unknown-run"
            assert await refusal(runs.call("Get", v1.GetRequest(id=id))) == known
            assert await refusal(anext(runs.watch(id))) == known


@pytest.mark.parametrize("name", ["Start", "Get", "Cancel", "Watch"])
async def test_bytes_that_are_no_request_are_refused(blog: WholeBlog, name: str) -> None:
    async with runs_of(blog, None) as [runs]:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = runs.channel.unary_unary(f"/sagabox.v1.Runs/{name}")
        told = await refusal(call(b"\xff", timeout=30))
    assert told == (Status.INVALID_ARGUMENT, "malformed-request")
