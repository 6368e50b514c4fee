"""A loop around a step that can fail for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import SQLAlchemyError

from outbox.bell import Bell
from outbox.errors import OutboxError

log = logging.getLogger("outbox.relay")

DATABASE_TROUBLE = (SQLAlchemyError, OutboxError, OSError, TimeoutError)
"""What is waited out without a traceback."""

_LONGEST_BACKOFF = 5.0

Step = Callable[[], Awaitable[float]]
"""Does something, and returns how many seconds to wait before doing it again."""


async def repeat(stop: asyncio.Event, step: Step, purpose: str, bell: Bell | None = None) -> None:
    """Repeat `step` until `stop` is set; what fails is logged, and tried again after a while.

    With a bell, the pauses end when it rings: whoever sets `stop` also rings it.
    """
    failures = 0
    while not stop.is_set():
        rings = 0 if bell is None else bell.rings
        try:
            pause = await step()
            failures = 0
        except Exception as error:
            failures += 1
            pause = min(_LONGEST_BACKOFF, 0.1 * 2.0 ** min(failures, 8))
            expected = isinstance(error, DATABASE_TROUBLE)
            log.warning(
                "could not %s, trying again in %.1f s: %s",
                purpose,
                pause,
                error,
                exc_info=None if expected else error,
            )
            await _rest(stop, pause)
            continue
        if pause <= 0 or stop.is_set():
            continue
        if bell is None:
            await _rest(stop, pause)
        else:
            await bell.wait(pause, since=rings)


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
