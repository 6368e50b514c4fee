"""A world for one saga: its participants with their handlers, and an orchestrator, in one process.

Databases, statements, inbox, handlers and the node of the orchestrator are the real ones. Time is
virtual: nothing sleeps, and a wait of minutes takes no longer than none. There is no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import StepStatus
from orchestrator.testing.virtual.process import ProcessClock
from orchestrator.testing.virtual.timeline import Timeline
from orchestrator.testing.worlds import snapshot
from orchestrator.testing.worlds.course import Course
from orchestrator.testing.worlds.orchestrator_database import Books, registry_of
from orchestrator.testing.worlds.participants.completions import Completions
from orchestrator.testing.worlds.participants.database import Database, Schema
from orchestrator.testing.worlds.participants.effects import Effect
from orchestrator.testing.worlds.participants.participant import REPLY, Participant
from orchestrator.testing.worlds.participants.postgres_database import PostgresDatabase
from orchestrator.testing.worlds.participants.sqlite_database import SqliteDatabase
from orchestrator.testing.worlds.plan import Steering
from orchestrator.testing.worlds.run import Run
from outbox.adding.installation import Routes
from outbox.inbox.handlers import Handlers
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.wire.strict_json import loads

_OUTSIDER = "sagabox-test"
"""The name of the service that asks for the runs where no participant does."""
_DATABASE = "sagabox-orchestrator"


class World(Steering):
    """The base of both worlds. `database` is the URL of a PostgreSQL, where each participant gets a
    database of its own; without it they are files in `folder`. `tables` are the library's, of all
    participants or by name. Raises ValueError where participants
    are missing or unknown, or the URL is that of something else."""

    def __init__(
        self,
        saga: Saga[Any],
        *,
        participants: Mapping[str, Handlers],
        schema: Schema | Mapping[str, Schema],
        folder: Path,
        routes: Mapping[str, Routes] | None = None,
        originator: str | None = None,
        completions: Completions = MappingProxyType({}),
        database: str | URL | None = None,
        tables: Tables | Mapping[str, Tables] = DEFAULT_TABLES,
    ) -> None:
        named = {
            "participants=": saga.participants,
            "schema=": frozenset(schema if isinstance(schema, Mapping) else ()),
            "routes=": frozenset(routes or ()),
            "originator=": frozenset({originator} if originator else ()),
            "tables=": frozenset(tables if isinstance(tables, Mapping) else ()),
        }
        if missing := sorted(saga.participants - participants.keys()):
            raise ValueError(f"{saga} sends commands to {missing[0]!r}: name it in participants=")
        for argument, names in named.items():
            if unknown := sorted(names - participants.keys()):
                raise ValueError(f"{argument} names {unknown[0]!r}, which is no participant")
        outside = {
            it.type: it.outside
            for handlers in participants.values()
            for it in handlers
            if it.outside is not None
        }
        super().__init__(saga, completions, outside)
        self._number = 0
        self._has_kept = False
        self._originator = originator or _OUTSIDER
        self._timeline = Timeline()
        self._clock = _Clock(lambda: self._timeline)
        names = frozenset({*participants, self._originator})
        self._participants: dict[str, Participant] = {}
        with ExitStack() as on_failure:
            self._books_database: Database = SqliteDatabase(folder / f"{_DATABASE}.sqlite")
            on_failure.callback(self._books_database.remove)
            self._books = Books(self._books_database, registry_of(saga, names), self._clock)
            for name, handlers in participants.items():
                its = self._database(database, folder / f"{name}.sqlite")
                on_failure.callback(its.remove)
                of_library = (
                    tables.get(name, DEFAULT_TABLES) if isinstance(tables, Mapping) else tables
                )
                made = Participant(name, handlers, its, self._clock, self._next_number, of_library)
                found = schema.get(name) if isinstance(schema, Mapping) else schema
                made.create([found] if found is not None else [], (routes or {}).get(name, {}))
                self._participants[name] = made
            on_failure.pop_all()
        self._begin()

    def _database(self, server: str | URL | None, file: Path) -> Database:
        return SqliteDatabase(file) if server is None else PostgresDatabase(server, self._clock)

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
        row = self._participant(participant).tables.outbox.c
        statement = select(row.type, row.payload).where(row.type != REPLY).order_by(row.seq)
        with self.session(participant) as session:
            rows = session.execute(statement).all()
        return [(it.type, loads(it.payload.encode())) for it in rows]

    # For checks

    def require_completed(self, run: Run) -> None:
        """Raises ValueError where a command is pending to which the test has no answers."""
        for step in run.pending:
            is_undo = run.steps[step] is StepStatus.UNDOING
            if not self.answers.of(step, undo=is_undo):
                command = self.answers.command(step, undo=is_undo)
                raise ValueError(
                    f"the handler of {command} returned Pending: tell how it is completed, with "
                    f"completions={{{command}: [...]}}"
                )

    def is_unknown(self, run: Run) -> bool:
        """Whether the run is STUCK since a call ended without an answer, and its provider honours
        no key: then only a person can find out what became of it."""
        return any(
            run.steps[step] is StepStatus.STUCK and not outside.promise.keyed
            for (step, _), outside in self.calls.items()
        )

    def snapshot(self) -> snapshot.Snapshot:
        """The snapshot of the participants' own tables."""
        return {
            name: snapshot.taken(it.database, it.others) for name, it in self._participants.items()
        }

    def effects(self, run: Run) -> list[Effect]:
        """The effects of the run, in their order."""
        found = [it for each in self._participants.values() for it in each.effects()]
        return sorted((it for it in found if it.saga_id == run.id), key=lambda it: it.number)

    @property
    def course(self) -> Course:
        """The course of things since this world was made or restored."""
        return self._course

    @property
    def points(self) -> Mapping[str, int]:
        """The number of times that each crash point was reached."""
        return self._troubles.points

    def keep(self) -> None:
        """Remember the content of all databases."""
        for database in self._databases():
            database.keep()
        self._has_kept = True

    def restore(self) -> None:
        """Begin anew from the remembered content, without any trouble. Raises RuntimeError where
        nothing was remembered."""
        if not self._has_kept:
            raise RuntimeError("there is nothing to restore: call keep() first, before the runs")
        for database in self._databases():
            database.restore()
        self._begin()

    def _begin(self) -> None:
        self._timeline = Timeline()
        self._course = Course(
            self.saga,
            self._timeline,
            self._books,
            self._participants,
            self.answers,
            self._originator,
        )
        self._troubles = self._course.troubles

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
        async with AsyncExitStack() as stack:
            for database in self._databases():
                stack.push_async_callback(database.close)


class _Clock:
    """The clock of the participants: that of the timeline that there is at present."""

    def __init__(self, timeline: Callable[[], Timeline]) -> None:
        self._timeline = timeline

    def now(self) -> Any:
        return ProcessClock(self._timeline()).now()

    def monotonic(self) -> float:
        return self._timeline().now
