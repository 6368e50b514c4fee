from __future__ import annotations

import asyncio
import threading

from outbox.coordination.bell import Bell


async def test_everybody_who_waits_hears_a_ring() -> None:
    bell = Bell()
    waiting = [asyncio.create_task(bell.wait(10)) for _ in range(3)]
    await asyncio.sleep(0)
    bell.ring()
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_silence_ends_with_the_timeout() -> None:
    assert await Bell().wait(0.001) is False


async def test_a_ring_before_the_wait_counts_only_since_it_is_asked_for() -> None:
    bell = Bell()
    before = bell.rings
    bell.ring()
    assert await bell.wait(0.001) is False
    assert await bell.wait(10, since=before) is True
    assert await bell.wait(0.001, since=bell.rings) is False


async def test_it_is_rung_from_other_threads() -> None:
    bell = Bell()
    waiting = asyncio.create_task(bell.wait(10))
    await asyncio.sleep(0)
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert await waiting
    thread.join()


async def test_it_is_heard_in_several_event_loops() -> None:
    bell = Bell()
    rings = bell.rings
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(asyncio.run(bell.wait(10, since=rings))))
    thread.start()
    waiting = asyncio.create_task(bell.wait(10, since=rings))
    await asyncio.sleep(0)
    bell.ring()
    assert await waiting
    await asyncio.to_thread(thread.join, 10)
    assert heard == [True]


async def test_who_gave_up_or_whose_loop_has_ended_stops_no_other_waiter() -> None:
    bell = Bell()
    gone = asyncio.create_task(bell.wait(10))
    waiting = asyncio.create_task(bell.wait(10))

    left: list[asyncio.Task[bool]] = []

    def leave_a_waiter_behind() -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # which would tell of the task left behind
        left.append(loop.create_task(bell.wait(10)))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    await asyncio.to_thread(leave_a_waiter_behind)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    bell.ring()
    assert await waiting


async def test_a_cancellation_that_comes_with_a_ring_is_not_forgotten() -> None:
    bell = Bell()
    waiting = asyncio.create_task(bell.wait(10))
    await asyncio.sleep(0)
    bell.ring()
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
