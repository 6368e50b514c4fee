"""A request to an application of the same process: what it sends is read as it comes."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.api_grpc.asking import AHEAD, asked

BEGUN = {"type": "http.response.start", "status": 200, "headers": []}


async def test_the_application_is_only_a_little_ahead_of_who_reads() -> None:
    sent = 0

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(BEGUN)
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent += 1
            await asyncio.sleep(0)  # so that the reader has its turn, too

    async with asked(endless, {}, b"") as answer:
        for read in range(1, 5):
            assert await anext(answer.pieces) == b"x"
            for _ in range(3 * AHEAD):
                await asyncio.sleep(0)
            assert sent == read + AHEAD


async def test_an_answer_that_is_broken_off_is_no_whole_one() -> None:
    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send(BEGUN)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("no more")

    async with asked(breaks_off, {}, b"") as answer:
        assert await anext(answer.pieces) == b"x"
        with pytest.raises(ConnectionError, match="broke off"):
            await anext(answer.pieces)
    async with asked(breaks_off, {}, b"") as answer:
        with pytest.raises(ConnectionError, match="broke off"):
            await answer.whole()
