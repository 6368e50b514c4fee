"""The inbox: a message takes effect at most once, and never together with its undo.

A batch shares transactions: the ids, what the handlers wrote, the messages that they added and the
answers. Where one of its messages fails or is refused, that transaction is rolled back, and each of
its messages gets one of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from outbox.clock import Clock
from outbox.contract import RunsEnded, Void
from outbox.coordination.progress import Progress
from outbox.inbox.answers import IN_HAND, Answers, too_busy
from outbox.inbox.handlers import Handlers
from outbox.inbox.in_hand import InHand
from outbox.inbox.limits import InboxLimits
from outbox.inbox.outside.calling import MOST_CALLS, PATIENCE, Calls
from outbox.inbox.outside.results import Results
from outbox.inbox.processing import Processor
from outbox.inbox.purge import questions
from outbox.inbox.purge.purge import Purge
from outbox.inbox.purge.questions import Stopped
from outbox.inbox.reading import Reader, check_void, never_called
from outbox.inbox.rows import Arrival, State
from outbox.inbox.runners import Sessions, check_ground, engine_of, hold_to, runner_for
from outbox.inbox.transactions.in_threads import InThreads
from outbox.inbox.transactions.terms import Told
from outbox.replies import Reply
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

__all__ = ["Inbox", "InboxLimits", "State"]

log = logging.getLogger("outbox.inbox")

MOST_GOING_ON = 8
"""Transactions that may go on after their delivery at once: each keeps a connection."""


class Inbox:
    """Takes batches of messages for one consumer, and answers them."""

    def __init__(
        self,
        handlers: Handlers,
        sessions: Sessions,
        *,
        clock: Clock,
        limits: InboxLimits | None = None,
        told: Told | None = None,
        peers: Collection[str] = (),
        progress: Progress | None = None,
    ) -> None:
        """`told` is called with each answer of a message that was read, in the transaction that
        keeps it; in one that is rolled back in vain. `peers` are the names to which the outbox of
        these sessions has a way: an orchestrator among them is asked what its deliveries do not
        say of ended sagas. `progress` is told of each transaction.

        Raises UnconfiguredSQLite where the sessions are those of an unconfigured SQLite,
        InvalidService where they do not lead to one database, and InvalidHandlers where a handler
        does not fit it.
        """
        self.consumer = handlers.consumer
        self._limits = limits or InboxLimits()
        self._is_postgresql = engine_of(sessions).dialect.name == "postgresql"
        self._runner = runner_for(sessions, commit_within=self._limits.answer_within)
        self._times = hold_to(handlers, sessions, self._limits)
        handlers.build_in(RunsEnded, questions.learn, questions.check_answer)
        handlers.build_in(Void, never_called, check_void)
        self._handlers = handlers
        self._clock = clock
        self._reader = Reader(handlers, most_bytes=self._limits.message_bytes)
        progress = progress or Progress(clock.monotonic)
        results = Results(
            self.consumer,
            self._runner,
            times=self._times,
            limits=self._limits,
            clock=clock,
            told=told,
        )
        self.calls = Calls(
            results.conclude,
            counted=self.count_call,
            monotonic=clock.monotonic,
            most=MOST_CALLS,
        )
        """The calls to the outside that this process makes."""
        self._processor = Processor(
            handlers,
            self._runner,
            times=self._times,
            limits=self._limits,
            clock=clock,
            told=told,
            # A copy of a message that hangs is answered soon: only transactions are work.
            work=progress.of("handle messages", may_take=lambda: self.longest_handler),
            calls=self.calls,
        )
        self._purge = Purge(
            self.consumer,
            self._runner,
            clock=clock,
            limits=self._limits,
            peers=peers,
            work=progress.of("purge the inbox"),
        )
        self._in_hand = InHand()
        self._going_on: set[asyncio.Task[None]] = set()
        self._beyond = 0
        """How many transactions go on after their delivery."""

    async def check_sessions(self) -> None:
        """Raises IsolationRefused or AutocommitRefused where its sessions are such that its
        handlers could handle nothing in them; to be asked at start."""
        if self._is_postgresql and any(self._handlers):
            await self._runner.run(check_ground)

    @property
    def stopped(self) -> Mapping[str, Stopped]:
        """The orchestrators of whose sagas the last purge had to keep more rows than it wanted to,
        and why."""
        return self._purge.stopped

    @property
    def threads(self) -> InThreads | None:
        """The threads of its handlers, on a synchronous database."""
        return self._runner if isinstance(self._runner, InThreads) else None

    @property
    def longest_handler(self) -> float:
        """The seconds that its slowest handler may take."""
        return self._times.longest(self._handlers)

    @property
    def longest_work(self) -> float:
        """The seconds that its slowest handler or call to the outside may take."""
        calls = [each.outside.seconds for each in self._handlers if each.outside is not None]
        return max([self.longest_handler, *calls])

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        """One answer for each envelope, in their order; `settled` is what the orchestrator that
        sent the batch says of its sagas.

        Messages of one key take effect in their order: after one that comes again (FAILED, LOCKED,
        ONGOING, TOO_BUSY, an unknown type) the rest of its key is NOT_ATTEMPTED. One that wants its
        answer to go to another name than its sender's is REJECTED. Never raises for a message's
        trouble. A copy of a message that is in hand in this process joins it for `limits.lock`
        seconds, and is ONGOING then.

        After `limits.answer_within` what is in hand goes on, and is ONGOING; a copy that comes when
        that has ended gets its answer. The rest is NOT_ATTEMPTED.

        Raises what the database raises when it is away or full, or when the outcome of a commit is
        not known: then the same batch, sent again, finds out.
        """
        self._purge.note(envelopes, settled)
        began = self._clock.monotonic()
        ids = {envelope.id for envelope in envelopes}
        in_hand = await self._in_hand.others(ids, self._limits.lock)
        answers = Answers(envelopes)
        for id in ids:
            self.calls.join(id, answers.delivery)
        slots = self.calls.free
        no_room = _NO_ROOM if self._beyond >= MOST_GOING_ON else None
        readable: list[tuple[int, Arrival]] = []
        for position, envelope in enumerate(envelopes):
            read = self._reader.read(envelope)
            late = self._processor.late_answer(read) if isinstance(read, Arrival) else None
            known = IN_HAND if envelope.id in in_hand else late or no_room
            if known is None and isinstance(read, Arrival) and self._needs_slot(read):
                slots -= 1
                known = _NO_SLOT if slots < 0 else None
            arrival = answers.sort_out(position, read, known)
            if arrival is not None:
                readable.append((position, arrival))
            elif isinstance(read, Arrival) and answers.has_given(position, late):
                self._processor.told(read)
        try:
            if readable:
                await self._work(readable, answers, began)
                await self.wait_for_calls(answers, began)
        finally:
            answers.delivery.is_over = True
        return answers.answers()

    def note(self, envelopes: Sequence[Envelope], settled: EndedSagas | None) -> None:
        """Note what the orchestrator that sent these messages says of its sagas, where another
        inbox of this consumer receives them: its rows are this one's to purge."""
        self._purge.note(envelopes, settled)

    def count_call(self, result: str, seconds: float) -> None:
        """Note a call to the outside that has ended; for those that count them."""

    async def purge(self) -> int:
        """Delete the rows that no sender asks for any more; returns how many. Bounded in work and
        in the length of each transaction, so call it now and then until it returns 0."""
        return await self._purge.run()

    async def drain(self, seconds: float) -> None:
        """Wait until what goes on after its delivery has ended. What has not after that time is
        rolled back, and is sent again; calls to the outside are left to other processes."""
        ends = asyncio.get_running_loop().time() + seconds
        if self._going_on:
            _, late = await asyncio.wait(self._going_on, timeout=seconds)
            for task in late:
                log.warning("a handler took too long and was ended; its message is sent again")
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.calls.drain(until=ends)

    def _needs_slot(self, arrival: Arrival) -> bool:
        handler = self._handlers.find(arrival.envelope.type)
        is_call = handler is not None and handler.outside is not None
        return is_call and not self.calls.is_made_here(arrival.envelope.id)

    async def wait_for_calls(self, answers: Answers, began: float) -> None:
        """Wait for the calls of a delivery that began then, as long as it has patience."""
        left = began + self._limits.answer_within - self._clock.monotonic()
        now = asyncio.get_running_loop().time()
        await self.calls.wait(answers.delivery, until=now + min(PATIENCE, left), at_most=now + left)

    async def _work(
        self, readable: Sequence[tuple[int, Arrival]], answers: Answers, began: float
    ) -> None:
        """Work on the messages until all are answered, or the time of the delivery is over: then
        the transaction under way goes on without it."""
        hold = self._in_hand.take({arrival.envelope.id for _, arrival in readable})
        task = asyncio.create_task(self._processor.process(readable, answers, began))
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        task.add_done_callback(lambda _: hold.release())
        rest = began + self._limits.answer_within - self._clock.monotonic()
        try:
            done, _ = await asyncio.wait({task}, timeout=max(rest, 0.0))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if done:
            task.result()
        else:
            answers.close()
            self._beyond += 1
            task.add_done_callback(self._count_end)
            hold.release(all_but={slot.arrival.envelope.id for slot in answers.in_transaction})
            task.add_done_callback(self._tell_of_end)

    def _count_end(self, _: asyncio.Task[None]) -> None:
        self._beyond -= 1

    def _tell_of_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning(
                "%s could not finish a message after its delivery; it is sent again",
                self.consumer,
                exc_info=error,
            )


_NO_SLOT = too_busy(f"{MOST_CALLS} calls to the outside are made already")
_NO_ROOM = too_busy(f"{MOST_GOING_ON} handlers go on longer than a delivery already")
