"""The changes of one group commit, gathered until they are written.

`group_commit`, `starts` and `ends` add to them; the committer acts on them after the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits import run_log
from orchestrator.engine.commits.items import Begin, Item, Started
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.errors import OrchestratorError
from orchestrator.machine.instance import Instance
from orchestrator.machine.transition import Dispatch, Entry, Happening, Transition
from orchestrator.store import outgoing
from orchestrator.store.commit_parts import Writes
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.records import Record
from orchestrator.store.signal_rows import dump_answer, dump_started
from outbox import tracing
from outbox.contract import SagaStuck


class MustRead(Exception):
    """A commit in one statement cannot be made: something must be read from the database for it."""


class Changes:
    """The transaction, its time, and its changes so far. A commit in one statement has no
    connection while they are gathered."""

    def __init__(
        self,
        connection: AsyncConnection | None,
        ports: EnginePorts,
        registry: Registry,
        now: datetime,
        settings: EngineSettings,
    ) -> None:
        self._connection = connection
        self.ports = ports
        self.registry = registry
        self.now = now
        self.source = settings.name
        """The orchestrator's name."""
        self.writes = Writes()
        self.records: dict[str, Record] = {}
        """The runs that were written, as they stand after the commit."""
        self.parked: dict[str, str] = {}
        """Runs that this code cannot work on, with the reason."""
        self.seqs: Mapping[str, int] = {}
        """The numbers of the messages, by their ids."""
        self.withdrawn: set[str] = set()
        """Messages that were taken out of the outbox."""
        self.again: list[Item] = []
        """Items that must wait for a later commit."""
        self.ended: list[str] = []
        """The runs that came to their end."""
        self.news: list[run_log.News] = []
        """Lines for the log, after the commit."""
        self.applied: list[int] = []
        """The numbers of signals that were applied."""
        self.answers: dict[int, str] = {}
        """Answers to signals and starts of other processes, by the numbers of these."""
        self.stuck: list[SagaStuck] = []
        """The steps that need an operator since this commit."""
        self.transitions = 0
        self.stray_effects = 0
        self.late_answers = 0
        """Answers for runs that were removed."""
        self._stuck_to = settings.stuck_to
        self._outcomes: list[tuple[asyncio.Future[Any], Any]] = []

    @property
    def connection(self) -> AsyncConnection:
        """The connection of the transaction. Raises MustRead where there is none."""
        if self._connection is None:
            raise MustRead
        return self._connection

    @property
    def messages(self) -> Sequence[OutgoingMessage]:
        """The messages that are added to the outbox."""
        return self.writes.messages

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many bytes each of the written runs takes in the database."""
        return self.writes.sizes

    def resolve(self) -> None:
        """Tell the callers their outcomes, which are durable now."""
        for future, outcome in self._outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def tell(self, done: asyncio.Future[Any] | None, outcome: object) -> None:
        """Tell the caller that waits for `done`, if any, after the commit."""
        if done is not None:
            self._outcomes.append((done, outcome))

    def conclude(self, item: Begin, outcome: Started | OrchestratorError | None) -> None:
        """Conclude the start: tell its caller the outcome, or remove its stored signal."""
        self.tell(item.done, outcome)
        if item.seq is None:
            return
        if not item.is_asked:
            self.applied.append(item.seq)
        elif isinstance(outcome, Started):
            self.answers[item.seq] = dump_started(outcome.instance_id, outcome.is_new)
        else:
            self.answers[item.seq] = dump_answer(outcome)

    def add(self, entries: int, after: Record, transition: Transition[Any]) -> Record:
        """Add the step that a run of so many lines of history took: its new lines and messages.
        Returns the run with the spans of these messages, if there are any."""
        self.transitions += 1
        saga_id = after.instance.id
        self.writes.history += [
            (saga_id, entries + place, entry) for place, entry in enumerate(transition.history, 1)
        ]
        if transition.withdrawn:
            self.withdrawn.update(transition.withdrawn)
            self.writes.messages = [
                it for it in self.messages if it.envelope.id not in self.withdrawn
            ]
        for place, entry in enumerate(transition.history, 1):
            if entry.happening is Happening.STUCK:
                self._tell_stuck(after, entry, entries + place)
            elif entry.happening is Happening.STRAY_EFFECT:
                self.stray_effects += 1
        self.news += run_log.worth_telling(after, transition.history)
        made = {}
        for dispatch in transition.commands:
            span = self._span_of(dispatch, after)
            if span is not None:
                made[dispatch.step] = span
            trace = span or after.traceparent
            self.writes.messages.append(self._command(dispatch, after, trace))
        return after.with_spans(made) if made else after

    def _tell_stuck(self, after: Record, entry: Entry, number: int) -> None:
        run = after.instance
        event = SagaStuck(run.id, run.saga, entry.step or "", entry.detail)
        self.stuck.append(event)
        self.writes.messages += [
            outgoing.stuck(
                *(event, name, after.shard, self.now),
                number=number,
                trace=after.traceparent,
                source=self.source,
            )
            for name in self._stuck_to
        ]

    def _span_of(self, dispatch: Dispatch, after: Record) -> str | None:
        """The span of the command as a traceparent, with links to those of the commands that it
        waited for; None where no spans are made."""
        if tracing.tracer_in_use() is None:
            return None
        run = after.instance
        made = tracing.of_new_message(
            dispatch.id,
            dispatch.type,
            after.traceparent,
            saga=run.id,
            step=dispatch.step,
            waited_for=after.spans_of(self._waited_for(dispatch, run)),
        )
        return None if made == after.traceparent else made

    def _waited_for(self, dispatch: Dispatch, run: Instance[Any]) -> Collection[str]:
        """The steps whose commands had to be answered before this one."""
        step, needed = dispatch.step, self.registry.get(run.saga, run.version).dependencies
        if dispatch.is_void:
            return {step}
        if not dispatch.undoes:
            return needed[step]
        return {step, *(it for it, needs in needed.items() if step in needs)}

    def _command(self, dispatch: Dispatch, after: Record, trace: str) -> OutgoingMessage:
        step = after.instance.steps[dispatch.step]
        return outgoing.command(
            dispatch,
            after.instance.id,
            after.shard,
            self.now,
            number=after.number,
            trace=trace,
            source=self.source,
            repeats=any(it.id == dispatch.id and it.sendings > 1 for it in step.commands),
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that took place, with its items, and the items that were another node's. `is_told`
    tells whether the database said so itself; else it was found out, and what memory has of these
    runs may be wrong."""

    changes: Changes
    items: Sequence[Item]
    others: Sequence[Item] = ()
    is_told: bool = True
