"""P8: what a request brings beside its body is bounded in bytes, in lines and in time."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from starlette.types import Receive, Scope, Send

from outbox.chassis.http.bounded_http import BoundedHttp, HeadLimits
from tests.support.http.servers import serving
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

pytestmark = pytest.mark.databases("sqlite")

PATIENT = HeadLimits(seconds=60)
MIB = 1024 * 1024


class Echo:
    """Answers with the path, the number of header lines, and the length of the body; `/slowly`
    only when `go` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        if scope["path"] == "/slowly":
            await self.go.wait()
        size, more = 0, scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
        told = json.dumps([scope["path"], len(scope["headers"]), size]).encode()
        length = (b"content-length", str(len(told)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": told})


@asynccontextmanager
async def talking(
    limits: HeadLimits, app: Any = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with these limits."""
    protocol = partial(BoundedHttp, limits=limits)
    async with serving(app or Echo(), http=protocol, timeout_keep_alive=60) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        try:
            yield reader, writer
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """The next answer: its status, and its body."""
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await reader.readexactly(int(fields[b"content-length"]))
    return int(head.split()[1]), json.loads(body)


async def the_last(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The next answer, which is a problem behind which the connection ends."""
    status, problem = await answer(reader)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    assert problem["status"] == status
    return status, problem["code"]


def head_of(size: int, path: str = "/") -> bytes:
    """A head of exactly that many bytes."""
    start, end = f"GET {path} HTTP/1.1\r\nx: ".encode(), b"\r\n\r\n"
    return start + b"a" * (size - len(start) - len(end)) + end


async def test_p8_a_head_may_be_as_large_as_the_limit_and_no_larger() -> None:
    async with talking(PATIENT) as (reader, writer):
        writer.write(head_of(PATIENT.bytes))
        assert await answer(reader) == (200, ["/", 1, 0])
        writer.write(head_of(PATIENT.bytes + 1))
        assert await the_last(reader) == (431, "head-too-large")


async def test_p8_a_huge_target_and_lines_before_the_request_are_part_of_the_head() -> None:
    for start in (b"GET /" + b"a" * (PATIENT.bytes + 1), b"\r\n" * (PATIENT.bytes // 2 + 1)):
        async with talking(PATIENT) as (reader, writer):
            writer.write(start)
            assert await the_last(reader) == (431, "head-too-large")


async def test_p8_a_head_has_at_most_a_hundred_lines() -> None:
    async with talking(PATIENT) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * PATIENT.lines + b"\r\n")
        assert await answer(reader) == (200, ["/", PATIENT.lines, 0])
        writer.write(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (PATIENT.lines + 1) + b"\r\n")
        assert await the_last(reader) == (431, "head-too-large")


POST = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "chunk", [b"1;x=" + b"a" * 5000 + b"\r\nb\r\n", b"1" + b";a" * 40_000], ids=["many", "one"]
)
async def test_p8_extensions_of_chunks_are_bounded(chunk: bytes) -> None:
    async with talking(PATIENT) as (reader, writer):
        writer.write(POST + chunk * 20)
        assert await the_last(reader) == (431, "head-too-large")


async def test_p8_trailers_are_bounded_and_are_no_headers() -> None:
    async with talking(PATIENT) as (reader, writer):
        writer.write(POST + b"3\r\nabc\r\n0\r\n" + b"a: b\r\n" * 5 + b"\r\n")
        assert await answer(reader) == (200, ["/", 1, 3])
        writer.write(POST + b"0\r\n" + b"a: b\r\n" * (PATIENT.lines + 1) + b"\r\n")
        assert await the_last(reader) == (431, "head-too-large")
    async with talking(PATIENT) as (reader, writer):
        writer.write(POST + b"0\r\na: " + b"b" * (PATIENT.bytes + 4096))
        assert await the_last(reader) == (431, "head-too-large")


async def test_a_body_in_the_smallest_chunks_is_taken() -> None:
    async with talking(PATIENT) as (reader, writer):
        writer.write(POST + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n")
        assert await answer(reader) == (200, ["/", 1, 50_000])


@pytest.mark.parametrize("start", [b"GET / HTT", b"GET / HTTP/1.1\r\na: b\r\n", b"\r\n"])
async def test_p8_half_a_head_is_not_waited_for(start: bytes) -> None:
    async with talking(HeadLimits(seconds=0.2)) as (reader, writer):
        writer.write(start)
        assert await the_last(reader) == (408, "head-too-slow")


async def test_p8_half_a_head_behind_a_request_is_not_waited_for() -> None:
    async with talking(HeadLimits(seconds=0.2)) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\nGET /")
        assert await answer(reader) == (200, ["/", 0, 0])
        assert await the_last(reader) == (408, "head-too-slow")


async def test_p8_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with talking(HeadLimits(seconds=0.2)) as (reader, _):
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_p8_the_rest_of_an_answered_request_is_not_waited_for() -> None:
    async with talking(HeadLimits(seconds=0.2)) as (reader, writer):
        writer.write(b"POST /unread HTTP/1.1\r\ncontent-length: 1000\r\n\r\nabc")
        assert await answer(reader) == (200, ["/unread", 1, 0])
        async with asyncio.timeout(20):
            assert await reader.read() == b""


async def test_a_request_that_works_for_longer_than_a_head_may_take_is_let_be() -> None:
    app, limits = Echo(), HeadLimits(seconds=0.1)
    async with talking(limits, app) as (reader, writer):
        writer.write(b"GET /slowly HTTP/1.1\r\n\r\nGET /next")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(limits.seconds * 5):
                await reader.read(1)
        app.go.set()
        assert (await answer(reader))[1][0] == "/slowly"
        assert await the_last(reader) == (408, "head-too-slow")


async def test_a_connection_is_kept_and_requests_may_come_behind_each_other() -> None:
    async with talking(PATIENT) as (reader, writer):
        for number in range(3):
            writer.write(f"GET /{number} HTTP/1.1\r\n\r\n".encode())
            assert (await answer(reader))[1][0] == f"/{number}"
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(2000)))
        for number in range(2000):
            assert (await answer(reader))[1][0] == f"/{number}"


async def test_p8_requests_behind_one_that_is_at_work_wait_unread() -> None:
    app = Echo()
    async with talking(PATIENT, app) as (reader, writer):
        body = b"POST /b HTTP/1.1\r\ncontent-length: 30000\r\n\r\n" + b"x" * 30_000
        writer.write(b"GET /slowly HTTP/1.1\r\n\r\n" + body * 20)
        await until(lambda: app.asked == ["/slowly"], what="the first request is at work")
        app.go.set()
        assert (await answer(reader))[1][0] == "/slowly"
        for _ in range(20):
            assert await answer(reader) == (200, ["/b", 1, 30_000])


async def test_what_is_refused_behind_a_request_ends_the_connection_after_its_answer() -> None:
    app = Echo()
    async with talking(PATIENT, app) as (reader, writer):
        writer.write(b"GET /slowly HTTP/1.1\r\n\r\nNO HTTP AT ALL\r\n\r\n")
        await until(lambda: app.asked == ["/slowly"], what="the first request is at work")
        app.go.set()
        assert (await answer(reader))[1][0] == "/slowly"
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        assert app.asked == ["/slowly"]


async def test_what_is_no_http_gets_a_problem() -> None:
    async with talking(PATIENT) as (reader, writer):
        writer.write(b"NO HTTP AT ALL\r\n\r\n")
        assert await the_last(reader) == (400, "malformed-request")


# A process


@asynccontextmanager
async def a_process() -> AsyncIterator[tuple[psutil.Process, int]]:
    """A service by itself, as `sagabox serve` runs it, and its port."""
    port = free_port()
    program = (
        "import uvicorn; from starlette.applications import Starlette;"
        "from outbox.chassis.http.bounded_http import BoundedHttp;"
        f"uvicorn.run(Starlette(), port={port}, http=BoundedHttp, loop='uvloop', log_config=None)"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    guardian().entrust_process(child.pid)
    try:
        await until(lambda: _listens(port), deadline=30, what="it listens")
        yield psutil.Process(child.pid), port
    finally:
        child.kill()
        await child.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize(
    ("piece", "times"),
    [(b"x: " + b"a" * MIB, 100), (b"a: b\r\n" * 100_000, 20), (b"a" * MIB, 100)],
    ids=["100 MiB", "2,000,000 lines", "target"],
)
async def test_p8_a_huge_head_is_refused_early_and_takes_no_memory(
    piece: bytes, times: int
) -> None:
    async with a_process() as (process, port):
        before = process.memory_full_info().uss
        start = b"GET /" if piece[:2] == b"aa" else b"GET / HTTP/1.1\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        sent = 0
        with pytest.raises(ConnectionError):
            for _ in range(times):
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
                async with httpx.AsyncClient(trust_env=False) as client:
                    told = await client.get(f"http://127.0.0.1:{port}/", timeout=20)
                    assert told.status_code == 404
        assert sent < 20 * MIB
        assert process.memory_full_info().uss - before < 16 * MIB
        writer.close()
