"""The runs that code has asked for in transactions which have not ended: until they commit, no run
begins, however long the code waits."""

from __future__ import annotations

from contextvars import ContextVar

from outbox.adding.staging import Staging

_asked: ContextVar[tuple[tuple[str, Staging], ...]] = ContextVar("sagabox_starts", default=())


def note(run: str, staging: Staging) -> None:
    """Note that this code asks for the run by that transaction."""
    still = (it for it in _asked.get() if not it[1].is_over)
    _asked.set((*still, (run, staging)))


def is_uncommitted(run: str) -> bool:
    """Whether this code has asked for the run by a transaction that has not ended."""
    return any(asked == run and not staging.is_over for asked, staging in _asked.get())
