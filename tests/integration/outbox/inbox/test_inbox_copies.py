"""Copies of a message whose handler does not come to its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from outbox.inbox.handlers import Context
from outbox.inbox.limits import InboxLimits
from outbox.replies import Outcome, Reply
from tests.support.outbox.inboxes import (
    Bench,
    Book,
    Booked,
    Names,
    Noted,
    bank,
    envelope,
    outcomes,
    write_entry,
)
from tests.support.processes.waiting import until

LIMITS = InboxLimits(lock=0.05, answer_within=90.0)


class Blocked:
    """A bank whose handler waits until it is told to go on; `calls` counts its calls."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.calls = 0
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.transactions = 0
        handlers = bank(without=Book)

        @handlers.on(Book)
        async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
            self.calls += 1
            self.began.set()
            await self.go_on.wait()
            await write_entry(session, command.entry, context.id)
            return Booked(balance=1)

        self.bench = Bench(engine, handlers, limits=LIMITS)
        runner = self.bench.inbox._runner
        handle = runner.handle

        async def counted(*arguments: Any, **rest: Any) -> Any:
            self.transactions += 1
            return await handle(*arguments, **rest)

        runner.handle = counted  # type: ignore[method-assign]  # counts them


@pytest.mark.databases("postgresql")
async def test_copies_of_a_command_that_is_in_hand_open_no_transaction(
    engine: AsyncEngine, names: Names
) -> None:
    blocked = Blocked(engine)
    bench, asked = blocked.bench, envelope(names(), Book("a"))
    first = asyncio.create_task(bench.receive_one(asked))
    await blocked.began.wait()
    copies = await asyncio.gather(*(bench.receive_one(asked) for _ in range(50)))
    assert {(it.outcome, it.retry_after) for it in copies} == {(Outcome.ONGOING, 1.0)}
    assert (blocked.transactions, blocked.calls) == (1, 1)
    blocked.go_on.set()
    done = Reply(Outcome.DONE, value={"balance": 1})
    assert await first == done
    assert await bench.receive_one(asked) == done
    assert await bench.entries() == ["an entry"]


@pytest.mark.databases("postgresql")
async def test_what_comes_after_such_a_copy_waits_for_its_turn_and_other_keys_do_not(
    engine: AsyncEngine, names: Names
) -> None:
    blocked = Blocked(engine)
    bench, asked = blocked.bench, envelope(names(), Book("a"))
    first = asyncio.create_task(bench.receive_one(asked))
    await blocked.began.wait()
    replies = await bench.receive(
        asked, envelope(names(), Noted("a")), envelope(names(), Noted("b", "of b"))
    )
    assert outcomes(replies) == ["ongoing", "not-attempted", "done"]
    blocked.go_on.set()
    await first


async def test_a_copy_joins_a_command_that_ends_soon(engine: AsyncEngine, names: Names) -> None:
    bench, asked = Bench(engine), envelope(names(), Book("a"))
    replies = await asyncio.gather(*(bench.receive_one(asked) for _ in range(5)))
    assert outcomes(replies) == ["done"] * 5
    assert await bench.entries() == ["an entry"]


@pytest.mark.databases("postgresql")
async def test_a_command_whose_delivery_was_given_up_is_in_hand_no_more(
    engine: AsyncEngine, names: Names
) -> None:
    blocked = Blocked(engine)
    asked = envelope(names(), Book("a"))
    first = asyncio.create_task(blocked.bench.receive_one(asked))
    await blocked.began.wait()
    first.cancel()
    await asyncio.wait([first])
    blocked.go_on.set()

    async def is_done() -> bool:
        # The server may need a moment to notice that the first transaction is given up.
        return (await blocked.bench.receive_one(asked)).outcome is Outcome.DONE

    await until(is_done, what="the next delivery has it done")
    assert blocked.calls == 2
