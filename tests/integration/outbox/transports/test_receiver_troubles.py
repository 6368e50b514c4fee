"""`POST /messages` under load and with a database in trouble, and what it is as a route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox.errors import UnconfiguredSQLite
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import BATCH, to_batch
from tests.support.outbox.inboxes import Bench, Book, Names, Noted, envelope
from tests.support.outbox.receiving import Client, assert_problem
from tests.support.processes.waiting import RARELY, free_port, until

DONE = Reply(Outcome.DONE)


class _Streamed(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk


class Stalling:
    """Holds up an inbox until `go`."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.inside = 0
        self._receive = bench.inbox.receive
        monkeypatch.setattr(bench.inbox, "receive", self.receive)

    async def receive(self, *arguments: Any) -> Any:
        self.inside += 1
        await self.go.wait()
        return await self._receive(*arguments)


async def test_beyond_its_bound_the_receiver_says_when_to_come_back(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stalling = Client(bench, concurrency=2), Stalling(bench, monkeypatch)
    inside = [
        asyncio.create_task(client.send(envelope(names(), Noted("a", "in")))) for _ in range(2)
    ]
    await until(lambda: stalling.inside == 2, what="both are at work")
    late = envelope(names(), Noted("a", "late"))
    answer = await client.post(to_batch([late]))
    assert_problem(answer, 503, "too-busy")
    assert answer.headers["retry-after"] == "1"
    stalling.go.set()
    await asyncio.gather(*inside)
    assert await client.send(late) == [DONE], "there is room again"
    assert await bench.entries() == ["in", "in", "late"]


async def test_those_who_send_slowly_do_not_keep_the_others_out(bench: Bench, names: Names) -> None:
    client = Client(bench, concurrency=1, read_within=RARELY)

    async def stalled() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    slow = [asyncio.create_task(client.post(b"", content=_Streamed(stalled()))) for _ in range(3)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert await client.send(envelope(names(), Noted("a"))) == [DONE]
    slow.append(asyncio.create_task(client.post(b"", content=_Streamed(stalled()))))
    for _ in range(50):
        await asyncio.sleep(0)
    assert_problem(await client.post(b"[]"), 503, "too-busy")
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert await client.send(envelope(names(), Noted("a"))) == [DONE]


async def test_a_database_that_is_away_is_a_503_that_says_to_send_again(names: Names) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://user@127.0.0.1:{free_port()}/none")
    answer = await Client(Bench(engine)).post(to_batch([envelope(names(), Noted("a"))]))
    problem = assert_problem(answer, 503, "database-unavailable")
    assert "under the same ids" in problem["next_step"]
    assert answer.headers["retry-after"] == "1"
    await engine.dispose()


async def test_a_database_without_its_tables_is_a_503(
    engine: AsyncEngine, client: Client, names: Names
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE inbox"))
    answer = await client.post(to_batch([envelope(names(), Noted("a"))]))
    assert_problem(answer, 503, "database-unavailable")


@pytest.mark.databases("sqlite")
async def test_a_full_database_is_a_503_and_never_half_an_answer(
    engine: AsyncEngine, bench: Bench, client: Client, names: Names
) -> None:
    async with engine.connect() as connection:
        pages = await connection.scalar(text("PRAGMA page_count"))
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    batch = [envelope(names(), Book("a", "x" * 100)) for _ in range(200)]
    assert_problem(await client.post(to_batch(batch)), 503, "database-unavailable")
    assert await bench.states() == {}


async def test_an_unforeseen_error_shows_nothing_of_the_inside(
    client: Client, bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise KeyError("a secret")

    monkeypatch.setattr(bench.inbox, "receive", fail)
    answer = await client.post(to_batch([envelope(names(), Noted("a"))]))
    assert_problem(answer, 500, "unexpected-error")
    assert "a secret" not in answer.text


async def test_only_post_is_known_here(client: Client) -> None:
    assert_problem(await client.http.get("/messages"), 405, "method-not-allowed")


def test_an_unconfigured_sqlite_engine_is_refused_before_a_receiver_exists(tmp_path: Any) -> None:
    with pytest.raises(UnconfiguredSQLite, match=r"sqlite\.configure"):
        Bench(create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/plain.db"))


async def test_the_openapi_document_describes_the_receiver(client: Client) -> None:
    document = (await client.http.get("/openapi.json")).json()
    operation = document["paths"]["/messages"]["post"]
    assert BATCH in operation["requestBody"]["content"]
    assert {"200", "400", "401", "413", "415", "503"} <= set(operation["responses"])
