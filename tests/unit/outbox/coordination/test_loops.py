from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from sqlalchemy.exc import IntegrityError

from outbox.coordination.bell import Bell as RingingBell
from outbox.coordination.loops import at_the_end, log_failure, repeat
from outbox.coordination.progress import Progress
from outbox.errors import OutboxError
from outbox.testing import FakeClock


class DriverError(Exception):
    """As asyncpg raises it where nothing wraps it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


IN_ONE_LINE = [
    ConnectionRefusedError(111, "refused"),
    socket.gaierror(-2, "name or service not known"),
    DriverError("57P03"),
    OutboxError("it is full", next_step="make room"),
]
MISTAKES = [
    ValueError("a mistake"),
    FileNotFoundError(2, "no such file", "certificates.pem"),
    IntegrityError("INSERT", None, DriverError("23505")),
]


@pytest.mark.parametrize("error", [*IN_ONE_LINE, *MISTAKES], ids=repr)
async def test_a_loop_goes_on_after_any_error_and_shows_where_a_mistake_was_made(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    stop = asyncio.Event()

    async def step() -> float:
        stop.set()  # the pause after the failure then ends at once
        raise error

    await repeat(stop, step, "do it", Progress(FakeClock().monotonic))
    (record,) = caplog.records
    assert record.message.startswith("could not do it, trying again in 0.2 s: ")
    assert (record.exc_info is not None) == (error in MISTAKES)


@pytest.mark.parametrize("error", [*IN_ONE_LINE, *MISTAKES], ids=repr)
async def test_what_fails_at_the_end_is_told_and_stops_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def step() -> None:
        raise error

    await at_the_end(step, "give the leases back")
    (record,) = caplog.records
    assert record.message.startswith("could not give the leases back: ")
    assert (record.exc_info is not None) == (error in MISTAKES)


def test_a_failure_is_told_to_the_log_of_the_loop_that_met_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_failure(logging.getLogger("outbox.somewhere"), "it did not work", ValueError("why"))
    (record,) = caplog.records
    assert (record.name, record.message) == ("outbox.somewhere", "it did not work: why")


@pytest.mark.parametrize("error", [None, ValueError("a mistake")])
async def test_a_step_is_work_and_the_pause_after_it_is_none(error: Exception | None) -> None:
    clock, stop, resting = FakeClock(), asyncio.Event(), asyncio.Event()
    progress = Progress(clock.monotonic)
    seen: list[float] = []

    class Bell(RingingBell):
        async def wait(self, timeout: float, *, since: int | None = None) -> bool:
            resting.set()
            return await super().wait(timeout, since=since)

    bell = Bell()

    async def step() -> float:
        clock.advance(5)
        seen.append(progress.stalled["do it"])
        if error is not None:
            asyncio.get_running_loop().call_soon(resting.set)
            raise error
        return 60.0

    looping = asyncio.create_task(repeat(stop, step, "do it", progress, bell))
    await resting.wait()
    clock.advance(3600)
    assert progress.stalled == {"do it": 0}
    stop.set()
    bell.ring()
    await looping
    assert seen == [5.0]
