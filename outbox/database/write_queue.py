"""The queue of writers on SQLite: first come, first served, among threads and event loops alike.

SQLite lets those that find its write lock taken sleep and try again, so that under load the unlucky
ones starve until their time is up. A queue in front of it serves all writers in order.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextvars import ContextVar
from weakref import WeakValueDictionary

Ticket = Future[None]


class WriteQueue:
    """The queue of the writers of one thing, within this process.

    A holder is any object, and holds at most one turn. Thread-safe. No call blocks, so that
    `pass_on` may also be called by the garbage collector, in the midst of another call.
    """

    def __init__(self) -> None:
        self._holder: object | None = None
        self._waiting: deque[tuple[object, Ticket]] = deque()
        self._ended: deque[object] = deque()
        self._advancing = threading.Lock()

    def ask(self, holder: object) -> Ticket:
        """Queue up. The ticket is done as soon as the turn is `holder`'s, maybe at once. A caller
        that stops waiting for it calls `withdraw`."""
        ticket: Ticket = Future()
        self._waiting.append((holder, ticket))
        self._settle()
        return ticket

    def withdraw(self, holder: object, ticket: Ticket) -> None:
        """Stop waiting. If the turn has come in the meantime, it passes on."""
        if not ticket.cancel():
            self.pass_on(holder)

    def pass_on(self, holder: object) -> None:
        """End the turn of `holder`; without effect where it has none."""
        self._ended.append(holder)
        self._settle()

    def _settle(self) -> None:
        # The thread that gets the lock does all threads' work. One that fails to get it may leave:
        # the first one looks again after it has released the lock.
        while self._is_due() and self._advancing.acquire(blocking=False):
            try:
                self._advance()
            finally:
                self._advancing.release()

    def _is_due(self) -> bool:
        return bool(self._ended) or (self._holder is None and bool(self._waiting))

    def _advance(self) -> None:
        while self._ended:
            if self._ended.popleft() is self._holder:
                self._holder = None
        while self._holder is None and self._waiting:
            holder, ticket = self._waiting.popleft()
            if ticket.set_running_or_notify_cancel():
                self._holder = holder
                ticket.set_result(None)


class TurnsByName:
    """One `WriteQueue` for each name, kept as long as a caller uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[str, WriteQueue] = WeakValueDictionary()

    def __getitem__(self, name: str) -> WriteQueue:
        with self._lock:
            turns = self._turns.get(name)
            if turns is None:
                turns = self._turns[name] = WriteQueue()
            return turns


class Writing:
    """One write transaction, from its begin; `is_over` is set at its end."""

    def __init__(self, turns: WriteQueue) -> None:
        self.turns = turns
        self.is_over = False


_begun: ContextVar[tuple[Writing, ...]] = ContextVar("sagabox_writing", default=())


def begin_writing(turns: WriteQueue) -> Writing:
    """Note that this code has begun a write transaction, at its turn in that queue."""
    writing = Writing(turns)
    _begun.set((*(it for it in _begun.get() if not it.is_over), writing))
    return writing


def is_writing(turns: WriteQueue) -> bool:
    """Whether this code is within a write transaction that has its turn in that queue: a second
    writer that it waits for would wait for the code itself."""
    return any(it.turns is turns and not it.is_over for it in _begun.get())
