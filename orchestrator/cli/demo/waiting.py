"""Waits with an end: the expected event, or an error that says what did not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from orchestrator.cli.terminal.errors import CommandError, ExitCode

PATIENCE = 30.0
"""Seconds for anything to happen that should happen in a few."""

_PAUSE = 0.02  # seconds between two looks


async def until(
    predicate: Callable[[], Awaitable[bool]], what: str, *, patience: float = PATIENCE
) -> None:
    """Return when the condition is true. Raises CommandError, which names what did not come."""
    end = time.monotonic() + patience
    while not await predicate():
        if time.monotonic() > end:
            raise CommandError(
                f"waited {patience:g} s in vain until {what}",
                "a service does not answer, does not send, or does not take in",
                LOOK,
                exit_code=ExitCode.OTHERWISE,
            )
        await asyncio.sleep(_PAUSE)


LOOK = "sagabox demo --folder FOLDER, and look at FOLDER/logs"
"""The next step after a demo that went wrong."""
