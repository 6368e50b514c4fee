"""The purge of one inbox: what orchestrators say of their sagas, and the deleting of rows that are
needed no longer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

from outbox.clock import Clock
from outbox.coordination.progress import Work
from outbox.inbox.limits import InboxLimits
from outbox.inbox.purge import questions, statements
from outbox.inbox.purge.questions import Known, Stopped
from outbox.inbox.transactions.terms import Runner
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

_MAX_SOURCES = 100


class Purge:
    """Deletes the old rows of one consumer. `peers` are the names to which it has a way; `work` is
    told of each transaction."""

    def __init__(
        self,
        consumer: str,
        runner: Runner,
        *,
        clock: Clock,
        limits: InboxLimits,
        peers: Collection[str],
        work: Work,
    ) -> None:
        self._consumer = consumer
        self._runner = runner
        self._clock = clock
        self._limits = limits
        self._peers = peers
        self._work = work
        self._ended: OrderedDict[str, EndedSagas] = OrderedDict()
        self._last_said: dict[str, EndedSagas] = {}
        self._stopped: Mapping[str, Stopped] = {}

    @property
    def stopped(self) -> Mapping[str, Stopped]:
        """As `Inbox.stopped`."""
        return self._stopped

    def note(self, envelopes: Sequence[Envelope], ended: EndedSagas | None) -> None:
        """The orchestrator that sent these said which of its sagas have ended."""
        sources = {envelope.source for envelope in envelopes}
        if ended is None or len(sources) != 1:
            return
        (source,) = sources
        self._last_said[source] = ended
        self._ended[source] = ended.join(self._ended.pop(source, None))
        if len(self._ended) > _MAX_SOURCES:
            forgotten, _ = self._ended.popitem(last=False)
            del self._last_said[forgotten]

    async def run(self) -> int:
        """As `Inbox.purge`."""
        total = 0
        for _ in range(self._limits.purge_transactions):
            with self._work:
                gone = await self._delete()
            total += gone
            if gone < self._limits.purge_rows:
                break
        with self._work:
            await self._ask()
        return total

    async def _delete(self) -> int:
        return await self._runner.run(
            statements.purge,
            self._consumer,
            dict(self._ended),
            self._clock.now(),
            self._limits.retention,
            self._limits.purge_rows,
        )

    async def _ask(self) -> None:
        """Find out more of ended sagas where more of them live than deliveries can name."""
        cut = [source for source, said in sorted(self._last_said.items()) if said.is_cut]
        stopped: dict[str, Stopped] = {}
        for source in cut:
            why = await self._runner.run(
                questions.ask,
                self._consumer,
                source,
                Known(self._last_said[source], self._ended[source]),
                self._clock.now(),
                self._limits.retention,
                source in self._peers,
            )
            if why is not None:
                stopped[source] = why
        self._stopped = stopped
