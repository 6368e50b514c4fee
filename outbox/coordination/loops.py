"""A loop around a step that can fail for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from outbox.coordination.bell import Bell
from outbox.coordination.progress import Progress
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import OutboxError

log = logging.getLogger("outbox.relay")

_LONGEST_BACKOFF = 5.0

Step = Callable[[], Awaitable[float]]
"""The repeated part of a loop; it returns the seconds to wait before the next time."""


async def repeat(
    stop: asyncio.Event, step: Step, purpose: str, progress: Progress, bell: Bell | None = None
) -> None:
    """Repeat `step` until `stop` is set; a failure is logged, and `step` tried again after a while.

    Each step, without the pauses, is work of the kind `purpose`. With a bell, the pauses end when
    it rings: a caller that sets `stop` also rings it.
    """
    work = progress.of(purpose)
    failures = 0
    while not stop.is_set():
        rings = 0 if bell is None else bell.rings
        try:
            with work:
                pause = await step()
            failures = 0
        except Exception as error:
            failures += 1
            pause = min(_LONGEST_BACKOFF, 0.1 * 2.0 ** min(failures, 8))
            log_failure(log, f"could not {purpose}, trying again in {pause:.1f} s", error)
            await _rest(stop, pause)
            continue
        if pause <= 0 or stop.is_set():
            continue
        if bell is None:
            await _rest(stop, pause)
        else:
            await bell.wait(pause, since=rings)


async def at_the_end(step: Callable[[], Awaitable[None]], purpose: str) -> None:
    """Do `step` once, at the end of a loop; a failure is logged and not tried again."""
    try:
        await step()
    except Exception as error:
        log_failure(log, f"could not {purpose}", error)


def log_failure(to: logging.Logger, what: str, error: Exception) -> None:
    """Log the error: in one line where the database is in trouble or the error explains itself,
    otherwise (a mistake in code) with its traceback."""
    explained = isinstance(error, OutboxError) or trouble_in_statement(error) is not Trouble.OWN
    to.warning("%s: %s", what, error, exc_info=None if explained else error)


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
