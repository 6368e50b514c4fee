"""The purge of one inbox: what orchestrators say of their sagas, and the deleting of rows that are
needed no longer."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

from outbox.clock import Clock
from outbox.coordination.progress import Work
from outbox.inbox.limits import InboxLimits
from outbox.inbox.purge import origins, questions, statements
from outbox.inbox.purge.origins import Heard, Origins
from outbox.inbox.purge.questions import Known, Stopped
from outbox.inbox.transactions.terms import Runner
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger("outbox.inbox")

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
        self._said: OrderedDict[str, dict[str | None, Known]] = OrderedDict()
        """What was said under each name, by the database from which it was said."""
        self._heard: dict[str, dict[str, Heard]] = {}
        self._origins: Mapping[str, Origins] = {}
        """The databases that spoke under each name, as all processes of the consumer heard them."""
        self._told: dict[str, tuple[bool, frozenset[str]]] = {}
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
        said = self._said.setdefault(source, {})
        self._said.move_to_end(source)
        before = said.pop(ended.database, None)
        said[ended.database] = Known(ended, ended.join(None if before is None else before.ever))
        if len(said) > origins.MOST + 1:
            del said[next(iter(said))]
        if ended.database is not None:
            now = self._clock.now()
            heard = self._heard.get(source, {})
            new = {ended.database: Heard(now, now)}
            self._heard[source] = origins.joined(heard, new, now - self._limits.retention)
        if len(self._said) > _MAX_SOURCES:
            forgotten, _ = self._said.popitem(last=False)
            self._heard.pop(forgotten, None)

    async def run(self) -> int:
        """As `Inbox.purge`."""
        with self._work:
            self._origins = await self._runner.run(
                origins.keep,
                self._consumer,
                dict(self._heard),
                self._clock.now(),
                self._limits.retention,
            )
        total = 0
        for _ in range(self._limits.purge_transactions):
            with self._work:
                gone = await self._delete()
            total += gone
            if gone < self._limits.purge_rows:
                break
        with self._work:
            stopped = await self._ask()
        self._stopped = stopped | {it: Stopped.TWO_DATABASES for it in self._tell_of_two()}
        return total

    async def _delete(self) -> int:
        return await self._runner.run(
            statements.purge,
            self._consumer,
            {source: known.ever for source, known in self._known().items()},
            self._clock.now(),
            self._limits.retention,
            self._limits.purge_rows,
            self._doubtful,
        )

    async def _ask(self) -> dict[str, Stopped]:
        """Find out more of ended sagas where more of them live than deliveries can name."""
        stopped: dict[str, Stopped] = {}
        for source, known in sorted(self._known().items()):
            if not known.last.is_cut:
                continue
            why = await self._runner.run(
                questions.ask,
                self._consumer,
                source,
                known,
                self._clock.now(),
                self._limits.retention,
                source in self._peers,
            )
            if why is not None:
                stopped[source] = why
        return stopped

    @property
    def _doubtful(self) -> frozenset[str]:
        """The names under which more than one database speaks."""
        return frozenset(source for source, heard in self._origins.items() if len(heard) > 1)

    def _known(self) -> dict[str, Known]:
        """What counts of what was said, by the names."""
        found: dict[str, Known] = {}
        for source, said in self._said.items():
            if source in self._doubtful:
                continue
            for origin, known in said.items():
                if origin is None or origin in self._origins.get(source, {}):
                    before = found.get(source)
                    ever = known.ever.join(None if before is None else before.ever)
                    found[source] = Known(known.last, ever)
        return found

    def _tell_of_two(self) -> list[str]:
        """The names that two orchestrators have, for certain. The log has what is new of them."""
        now, certain = self._clock.now(), list[str]()
        told, self._told = self._told, {}
        for source in sorted(self._doubtful):
            heard = self._origins[source]
            both = origins.at_once(heard, now)
            self._told[source] = bool(both), frozenset(heard)
            is_new = told.get(source) != self._told[source]
            if both:
                certain.append(source)
                if is_new:
                    log.error(_TWO, source, " and ".join(both), self._consumer)
            elif is_new:
                *earlier, last = heard
                log.warning(_REPLACED, source, last, " and ".join(earlier), self._consumer)
        return certain


_TWO = (
    "two orchestrators have the name %s: the databases %s both speak to %s. Each takes the runs of "
    "the other for ended, so no row of their runs is forgotten here. Stop the one that is a copy; "
    "or let the runs of one end, and begin it anew under a name of its own (SAGABOX_ORCHESTRATOR, "
    "or orchestrator.attach(name=...))"
)
_REPLACED = (
    "the orchestrator %s speaks from the database %s, and spoke from %s before. If its database "
    "was replaced, nothing is to be done: %s forgets rows of its runs again when the earlier one "
    "has been silent for the retention. If two orchestrators have that name, stop one"
)
