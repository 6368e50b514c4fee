"""A world for one saga: its participants with their handlers, and an orchestrator, in one process.

Databases, statements, inbox, handlers and the node of the orchestrator are the real ones. Time is
virtual: nothing sleeps, and a wait of minutes takes no longer than none. There is no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from orchestrator.definition.saga import Saga
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import StepStatus
from orchestrator.machine.signals import Cancel, Retry
from orchestrator.store import signal_rows
from orchestrator.store.signal_rows import StoredStart
from orchestrator.testing.virtual.chances import Chances
from orchestrator.testing.virtual.process import BEGIN, Process, ProcessClock
from orchestrator.testing.virtual.timeline import Timeline
from orchestrator.testing.worlds import snapshot
from orchestrator.testing.worlds.network import Road
from orchestrator.testing.worlds.orchestrator_database import Books, registry_of
from orchestrator.testing.worlds.participant import OURS, Database, Effect, Participant, Schema
from orchestrator.testing.worlds.plan import Steering
from orchestrator.testing.worlds.run import Run, run_of
from orchestrator.testing.worlds.troubles import Troubles
from outbox import tables as library
from outbox.adding.installation import Routes
from outbox.crashpoints import arm
from outbox.ids import Ids
from outbox.inbox.handlers import Handlers
from outbox.relay.settings import RelaySettings
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.transports.base import Answered, Delivery, Transport
from outbox.wire.codec import encode_value
from outbox.wire.strict_json import loads

_NOBODY = "sagabox-test"
"""The name of the service that asks for the runs where no participant does."""
_DATABASE = "sagabox-orchestrator"
_PATIENCE = 7 * 24 * 3600.0
"""Virtual seconds after which a run that has not come to rest never will."""
_MOST_EVENTS = 200_000
_SETTINGS = EngineSettings(
    relay=RelaySettings(
        lease=240.0,
        margin=5.0,
        delivery_timeout=2.0,
        poll=80.0,
        sweep=100.0,
        width=1,
        park_after=5.0,
        retry=RetryPolicy(first=0.3, ceiling=10.0, attempts=6),
    )
)


class NotAtRest(AssertionError):
    """A run neither ended nor stood still in a week of virtual time."""


class World(Steering):
    """The base of both worlds. Raises ValueError where participants are missing or unknown."""

    def __init__(
        self,
        saga: Saga[Any],
        *,
        participants: Mapping[str, Handlers],
        schema: Schema | Mapping[str, Schema],
        folder: Path,
        routes: Mapping[str, Routes] | None = None,
        originator: str | None = None,
    ) -> None:
        named = {
            "participants=": saga.participants,
            "schema=": frozenset(schema if isinstance(schema, Mapping) else ()),
            "routes=": frozenset(routes or ()),
            "originator=": frozenset({originator} if originator else ()),
        }
        if missing := sorted(saga.participants - participants.keys()):
            raise ValueError(f"{saga} sends commands to {missing[0]!r}: name it in participants=")
        for argument, names in named.items():
            if unknown := sorted(names - participants.keys()):
                raise ValueError(f"{argument} names {unknown[0]!r}, which is no participant")
        super().__init__(saga)
        self._number = 0
        self._is_stirred = False
        self._failure = ""
        self._originator = originator or _NOBODY
        self._timeline = Timeline()
        self._clock = _Clock(lambda: self._timeline)
        names = frozenset({*participants, self._originator})
        self._books_database = Database(folder / f"{_DATABASE}.sqlite")
        self._books = Books(self._books_database, registry_of(saga, names), self._clock)
        self._participants: dict[str, Participant] = {}
        for name, handlers in participants.items():
            database = Database(folder / f"{name}.sqlite")
            made = Participant(name, handlers, database, self._clock, self._next_number)
            found = schema.get(name) if isinstance(schema, Mapping) else schema
            made.create([found] if found is not None else [], (routes or {}).get(name, {}))
            self._participants[name] = made
        self._begin()

    # Parts

    @property
    def participants(self) -> tuple[str, ...]:
        """The participants' names."""
        return tuple(self._participants)

    @contextmanager
    def session(self, participant: str) -> Iterator[Session]:
        """A session on that participant's database, which commits where the block ends well."""
        with self._participant(participant).plain_sessions.begin() as session:
            yield session

    def sessions(self, participant: str) -> async_sessionmaker[AsyncSession]:
        """The maker of async sessions on that participant's database."""
        return self._participant(participant).sessions

    def sent(self, participant: str) -> list[tuple[str, Any]]:
        """The type and JSON of the messages that its handlers added to its outbox. They stay there:
        this world has no relay for them."""
        row = library.outbox.c
        with self.session(participant) as session:
            rows = session.execute(select(row.type, row.payload).order_by(row.seq)).all()
        return [(it.type, loads(it.payload.encode())) for it in rows]

    # For checks

    def snapshot(self) -> snapshot.Snapshot:
        """The snapshot of the participants' own tables."""
        return {
            name: snapshot.taken(it.database.plain, OURS) for name, it in self._participants.items()
        }

    def effects(self, run: Run) -> list[Effect]:
        """The effects of the run, in their order."""
        found = [it for each in self._participants.values() for it in each.effects()]
        return sorted((it for it in found if it.saga_id == run.id), key=lambda it: it.number)

    @property
    def points(self) -> Mapping[str, int]:
        """The number of times that each crash point was reached."""
        return self._troubles.points

    def keep(self) -> None:
        """Remember the content of all databases."""
        for database in self._databases():
            database.keep()

    def restore(self) -> None:
        """Begin anew from the remembered content, without any trouble."""
        for database in self._databases():
            database.restore()
        self._begin()

    # A history

    async def _run(self, state: Any) -> Run:
        self.saga.accept(state)
        start = self._ids()
        asked = StoredStart(self.saga.name, encode_value(state), self._originator)
        await self._books.tell(start, *signal_rows.dump_start(asked))
        return await self._live(start)

    async def _repair(self, run: Run) -> Run:
        self.mend()
        for name, status in run.steps.items():
            if status is StepStatus.STUCK:
                await self._tell(run.id, Retry(name, "a person", "mended"))
        return await self._live(run.id)

    async def _live(self, start: str) -> Run:
        troubles = self._troubles
        before = arm(None)
        arm(troubles.trap(before))
        try:
            self._wake()
            await self._until_rest(start)
            for road in self._roads:
                await road.arrive_again()
        finally:
            arm(before)
        troubles.check()
        return self._found(start)

    async def _until_rest(self, start: str) -> None:
        end = self._timeline.now + _PATIENCE
        for _ in range(_MOST_EVENTS):
            if not await self._timeline.next(end):
                break
            if self._is_stirred:
                self._is_stirred = False
                saga_id = self._books.run_of(start)
                if saga_id is not None and self._books.is_at_rest(saga_id):
                    return
        run = self._found(start)
        raise NotAtRest(
            f"the run is {run.status} and does not end: "
            f"{run.problem or self._failure or 'it goes on and on'}\n" + "\n".join(run.history)
        )

    def _found(self, start: str) -> Run:
        saga_id = self._books.run_of(start)
        if saga_id is None:
            raise NotAtRest("the orchestrator never took the run in")
        instance, parked = self._books.instance(saga_id)
        return run_of(instance, parked, self._books.history(saga_id), BEGIN)

    async def _tell(self, saga_id: str, signal: Cancel | Retry) -> None:
        await self._books.tell(saga_id, *signal_rows.dump(signal))
        self._wake()

    async def _cancel(self, saga_id: str) -> None:
        await self._tell(saga_id, Cancel("a person", "changed her mind"))

    def _wake(self) -> None:
        if self._process.node is not None:
            self._process.node.committer.look()
            self._process.wake()

    def _begin(self) -> None:
        chances = Chances(0)
        self._timeline = timeline = Timeline()
        self._troubles = troubles = Troubles()
        self._is_stirred = False
        self._failure = ""
        self._ids = Ids(self._clock, chances.entropy)
        for participant in self._participants.values():
            participant.begin(troubles)
        self._roads = [
            Road(
                timeline,
                it,
                troubles,
                _SETTINGS.relay.delivery_timeout,
                self._cancel,
            )
            for it in self._participants.values()
        ]
        ways: dict[str, Transport] = dict(zip(self._participants, self._roads, strict=True))
        ways.setdefault(_NOBODY, _Nobody())
        self._process = Process(
            "orchestrator",
            timeline,
            chances,
            self._books,
            self._books.registry,
            lambda: ways,
            _SETTINGS,
            self._trace,
        )
        timeline.at(0.0, self._process.start)

    def _trace(self, *what: object) -> None:
        """Note a step of the orchestrator. Only its commits bring a run to rest."""
        if what[0] in ("commits", "dies"):
            self._is_stirred = True
        if what[0] == "fails":
            self._failure = " ".join(map(str, what))

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _databases(self) -> Sequence[Database]:
        return [self._books_database, *(it.database for it in self._participants.values())]

    def _participant(self, name: str) -> Participant:
        found = self._participants.get(name)
        if found is None:
            known = ", ".join(self._participants)
            raise ValueError(f"{name!r} is no participant of this world; there are {known}")
        return found

    async def _close(self) -> None:
        for database in self._databases():
            await database.close()


class _Clock:
    """The clock of the participants: that of the timeline that there is at present."""

    def __init__(self, timeline: Callable[[], Timeline]) -> None:
        self._timeline = timeline

    def now(self) -> Any:
        return ProcessClock(self._timeline()).now()

    def monotonic(self) -> float:
        return self._timeline().now


class _Nobody:
    """The service that asked for the runs where no participant did: takes the events of their
    ends."""

    async def deliver(self, envelopes: Sequence[Any]) -> Delivery:
        """As `Transport` promises."""
        return Answered([Reply(Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""
