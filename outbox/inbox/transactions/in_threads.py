"""Transactions in threads: a synchronous database, and handlers that are plain functions.

A transaction belongs to its thread. A thread cannot be ended: at the limit of its handler the
transaction is ended from outside instead, and the thread goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from enum import Enum, auto
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session, sessionmaker

from outbox.crashpoints import crashpoint
from outbox.database.cutting import cut
from outbox.errors import InvalidHandlers
from outbox.inbox.handlers import Context, Handler
from outbox.inbox.transactions.session import HandlerGivenUp, Poison
from outbox.inbox.transactions.terms import HandlerLate, Worked
from outbox.messages import Message
from outbox.replies import Reply

T = TypeVar("T")

HANDLER_THREADS = 8
_LOOK = 0.1
"""Seconds between two looks at a thread whose handler has not begun."""


class InThreads:
    """Runs transactions in these sessions, each in a thread of its own, at most `most` at once."""

    def __init__(self, sessions: sessionmaker[Session], *, most: int = HANDLER_THREADS) -> None:
        self.most = most
        self.given_up = 0
        """The threads that go on after their handler was given up; each takes up a place."""
        self._sessions = sessions
        # A semaphore belongs to the loop in which tasks wait for it.
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    async def handle(self, work: Worked, *, connect_within: float) -> list[Reply | None]:
        """As `Runner.handle`. A place for a thread must be free within that time, too."""
        loop = asyncio.get_running_loop()
        connect_by = loop.time() + connect_within
        places = self._places.setdefault(loop, asyncio.Semaphore(self.most))
        async with asyncio.timeout_at(connect_by):
            await places.acquire()
        job = _Job(work, self._sessions)
        try:
            future = in_thread(job.run)
        except RuntimeError:  # the system gives no more threads
            places.release()
            raise
        future.add_done_callback(lambda _: self._leave(job, places))
        try:
            while not future.done():
                patience = job.patience()
                if not job.is_connected:
                    patience = min(patience, max(0.0, connect_by - loop.time()))
                await asyncio.wait({future}, timeout=patience)
                if not job.is_connected and loop.time() >= connect_by and self._give_up(job):
                    raise TimeoutError(f"no connection was free within {connect_within:.1f} s")
                late = job.late()
                if late is not None and self._give_up(job, late):
                    raise work.judged(late)
        except asyncio.CancelledError:
            self._give_up(job)
            raise
        return future.result()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """As `Runner.run`."""
        return await in_thread(lambda: self._transact(function, *args))

    def _transact(self, function: Callable[..., T], *args: object) -> T:
        with self._sessions.begin() as session:
            return function(session, *args)

    def _give_up(self, job: _Job, late: HandlerLate | None = None) -> bool:
        if not job.give_up(late):
            return False
        self.given_up += 1
        in_thread(job.cut)
        return True

    def _leave(self, job: _Job, places: asyncio.Semaphore) -> None:
        places.release()
        if job.is_given_up:
            self.given_up -= 1


class _Phase(Enum):
    WORKING = auto()
    COMMITTING = auto()
    """The commit is on its way, and can be kept from happening no more."""
    GIVEN_UP = auto()


class _Job:
    """One transaction and its thread. Its phase decides between the commit and giving up."""

    def __init__(self, work: Worked, sessions: sessionmaker[Session]) -> None:
        self._work = work
        self._sessions = sessions
        self._lock = threading.Lock()
        self._phase = _Phase.WORKING
        self.is_connected = False
        self._connection: DBAPIConnection | None = None
        self._poison: Poison | None = None
        self._running: tuple[float, HandlerLate] | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether its transaction is ended from outside."""
        return self._phase is _Phase.GIVEN_UP

    # In its thread

    def run(self) -> list[Reply | None]:
        """The answers, committed; none where it was given up."""
        try:
            with self._sessions() as session:
                try:
                    self._transact(session)
                finally:
                    self._end(session)
        except Exception:
            if self.is_given_up:
                return []
            raise
        crashpoint("inbox: after commit, before reply")
        return self._work.replies

    def _transact(self, session: Session) -> None:
        self._poison = Poison(session)
        self._connection = session.connection().connection.dbapi_connection
        self.is_connected = True
        self._go_on()
        self._work.work(session, self._call)
        self._go_on(to=_Phase.COMMITTING)
        try:
            session.commit()
        except Exception as error:
            raise self._work.judged(error) from error

    def _call(
        self,
        handler: Handler,
        session: Session,
        messages: Sequence[Message],
        contexts: Sequence[Context],
        seconds: float,
    ) -> list[Reply]:
        self._go_on()
        self._running = time.monotonic() + seconds, HandlerLate(handler.name, seconds)
        try:
            return handler.call_plain(session, messages, contexts)
        finally:
            self._running = None
            self._go_on()

    def _go_on(self, to: _Phase = _Phase.WORKING) -> None:
        with self._lock:
            if self.is_given_up:
                raise HandlerGivenUp
            self._phase = to

    def _end(self, session: Session) -> None:
        # Not while it is cut: the number of its socket would soon be another one's.
        with self._lock:
            if self.is_given_up:
                session.invalidate()
            self._connection = None

    # In the event loop

    def patience(self) -> float:
        """Seconds after which to look whether it is late."""
        running = self._running
        return _LOOK if running is None else max(0.001, running[0] - time.monotonic())

    def late(self) -> HandlerLate | None:
        """The lateness of its handler, if it is late."""
        running = self._running
        return running[1] if running is not None and time.monotonic() >= running[0] else None

    def give_up(self, late: HandlerLate | None = None) -> bool:
        """Let the transaction not be committed; False where it is too late for that, or where that
        late handler has just ended."""
        with self._lock:
            running = self._running
            has_ended = late is not None and (running is None or running[1] is not late)
            if has_ended or self._phase is not _Phase.WORKING:
                return False
            self._phase = _Phase.GIVEN_UP
        if self._poison is not None:
            self._poison.give()
        return True

    def cut(self) -> None:
        """End its transaction from outside."""
        with self._lock:
            if self._connection is not None:
                cut(self._connection)


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """The future of its result, from a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # it was cancelled, and the thread went on
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, value))

    def work() -> None:
        value: T | None = None
        failed: BaseException | None = None
        try:
            value = function()
        except (StopIteration, SystemExit) as error:
            # A future takes no StopIteration, and would never end; and `sys.exit()` ends a thread,
            # where the loop, which is told of it, would end the process.
            failed = RuntimeError(f"a function raised {type(error).__name__}")
            failed.__cause__ = error
        except BaseException as error:
            failed = error
        # A closed loop waits for nothing more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value, failed)

    threading.Thread(target=copy_context().run, args=(work,), daemon=True).start()
    return future


def refuse_async(handler: Handler) -> None:
    """Raises InvalidHandlers for a coroutine function: a thread has no event loop."""
    for name, is_async in handler.in_sessions:
        if is_async:
            raise InvalidHandlers(
                f"the handler {name} is async, and the database is synchronous",
                next_step=f"write def {name}(session: Session, ...), which may block, or give "
                "the service an AsyncEngine (or an async_sessionmaker)",
            )
