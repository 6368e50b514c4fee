"""One transaction in which many runs take a step.

It reads the runs, lets the machine decide, and writes the transitions. The caller begins and
commits the transaction, and acts on the changes after the commit. `starts` has the beginnings of
runs, `ends` the news of their ends.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, assert_never

from orchestrator.engine.commits import ends
from orchestrator.engine.commits.changes import Changes, MustRead
from orchestrator.engine.commits.items import Answer, Begin, Decline, Item, Look, Tell
from orchestrator.engine.commits.starts import Due, Starts
from orchestrator.errors import OrchestratorError, Unavailable, UnknownRun
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.machine import advance
from orchestrator.machine.signals import Buried, OperatorSignal, Replied, Signal, TimerFired
from orchestrator.machine.transition import Timer, Transition
from orchestrator.store import signal_rows
from orchestrator.store.commit_parts import Writes
from orchestrator.store.records import Record, record_of
from orchestrator.store.sharding import shard_of
from outbox import tracing
from outbox.replacing import replace
from outbox.safe_text import described

log = logging.getLogger(__name__)


class GroupCommit:
    """The group commit of one transaction. `cached` has runs as they stand in the database; it is
    not changed."""

    def __init__(self, changes: Changes, cached: Mapping[str, Record]) -> None:
        self._changes = changes
        self._cached = cached
        self._starts = Starts(changes)
        self._found: dict[str, Record] = {}
        self._newly_parked: dict[str, str] = {}
        self._to_store: list[tuple[str, int, str, str]] = []
        self._begins: list[Begin] = []
        self._due: dict[str, Due] = {}
        self._is_one = False
        self._may_end = True

    async def work(self, items: Sequence[Item]) -> None:
        """Work on the items up to the commit. Raises StaleRuns, and the database's errors."""
        await self._take_in(items)
        await self._write_runs()
        if self._begins or self._due:
            await self._starts.begin(self._begins, list(self._due.values()))
        await self._write_rest()

    async def gather(self, items: Sequence[Item], *, may_end: bool) -> None:
        """Gather all that the items lead to, for a commit in one statement. `may_end` tells whether
        runs that may have aliases can end in it. Raises MustRead, as soon as that is known."""
        changes = self._changes
        self._is_one, self._may_end = True, may_end
        await self._take_in(items)
        changes.writes.records = self._taken()
        changes.writes.alone = ends.tell_originators(changes)
        self._starts.gather(self._begins)
        changes.writes.applied = changes.applied
        if any(it.repeats for it in changes.messages):
            raise MustRead

    async def _take_in(self, items: Sequence[Item]) -> None:
        self._begins = [it for it in items if isinstance(it, Begin)]
        starting = {it.instance_id for it in self._begins}
        await self._read({it.instance_id for it in items if _changes_a_run(it)})
        for item in items:
            match item:
                case Begin():
                    pass
                case Decline():
                    await self._starts.decline(item)
                case Tell() if item.instance_id in starting or item.instance_id in self._due:
                    self._changes.again.append(item)
                case Tell():
                    self._tell(item)
                case Answer():
                    self._answer(item)
                case Look():
                    self._look(item)
                case _:
                    assert_never(item)

    # Reading

    async def _read(self, ids: Collection[str]) -> None:
        self._found = {it: self._cached[it] for it in ids if it in self._cached}
        missing = [it for it in ids if it and it not in self._found]
        if not missing:
            return
        for row in await self._changes.ports.runs.load(self._changes.connection, missing):
            definition = self._changes.registry.find(row.name, row.version)
            if row.parked is not None:
                self._changes.parked[row.id] = row.parked
            elif definition is None:
                self._park(row.id, f"{row.name} v{row.version} is not registered here")
            else:
                try:
                    self._found[row.id] = record_of(row, definition)
                except ValueError as error:
                    self._park(row.id, f"what is stored does not fit the code: {described(error)}")

    def _park(self, saga_id: str, reason: str) -> None:
        log.error("saga %s is parked: %s", saga_id, reason, extra={"saga": saga_id})
        self._changes.parked[saga_id] = self._newly_parked[saga_id] = reason

    # Signals

    def _tell(self, item: Tell) -> None:
        record = self._found.get(item.instance_id)
        error: OrchestratorError | None = None
        if item.instance_id in self._changes.parked:
            if item.seq is not None:
                return  # it stays in the database until the run can be worked on
            error = Unavailable(f"the run is parked: {self._changes.parked[item.instance_id]}")
        elif record is None:
            error = UnknownRun(item.instance_id)
            if not isinstance(item.signal, OperatorSignal):
                self._note_late(item.instance_id, item.signal, {"saga": item.instance_id})
        else:
            try:
                self._advance(record, item.signal)
            except OrchestratorError as refused:
                error = refused
        self._changes.tell(item.done, error)
        if item.seq is not None:
            if isinstance(item.signal, OperatorSignal):
                self._changes.answers[item.seq] = signal_rows.dump_answer(error)
            else:
                self._changes.applied.append(item.seq)

    def _answer(self, item: Answer) -> None:
        self._changes.writes.answered.append(item.message.seq)
        envelope = item.message.envelope
        if envelope.reply_to is None:
            return
        signal = Replied(envelope.id, item.reply)
        record = self._found.get(item.instance_id)
        if record is not None:
            self._advance(record, signal)
        elif item.instance_id in self._changes.parked:
            kind, payload = signal_rows.dump(signal)
            shard = shard_of(item.instance_id)
            self._to_store.append((item.instance_id, shard, kind, payload))
        else:
            self._note_late(item.instance_id, signal, tracing.fields_of(envelope))

    def _note_late(self, saga_id: str, signal: Replied | Buried, fields: Mapping[str, Any]) -> None:
        """Note an answer for a run that is not there: nothing can be done with it any more."""
        self._changes.late_answers += 1
        told = "a burial" if isinstance(signal, Buried) else f"the answer {signal.reply.outcome}"
        log.warning(
            "%s to %s comes too late for the saga %s, which was removed; what that command did, if "
            "anything, is known to its participant alone",
            told,
            signal.command_id,
            saga_id or "of no id",
            extra=dict(fields),
        )

    def _look(self, item: Look) -> None:
        record = self._found.get(item.instance_id)
        if record is None:
            return
        due = sorted(
            (it for it in record.timers if it.due <= self._changes.now), key=lambda it: it.due
        )
        if due and record.instance.status is Status.SCHEDULED and not record.instance.paused:
            self._begin(record, due[0])
            return
        # The fired timer is gone; the machine sets it again where it must.
        left = tuple(it for it in record.timers if it.due > self._changes.now)
        record = replace(record, timers=left, due_at=None)
        for timer in due:
            record = self._advance(record, _fired(timer))
        if not due:
            # The look came too early, on purpose; this stores the right time.
            first = min((it.due for it in left), default=None)
            self._keep(replace(record, due_at=first))

    def _begin(self, record: Record, timer: Timer) -> None:
        """Let a scheduled run begin with the starts of this commit, unless it takes another step in
        this one."""
        saga_id = record.instance.id
        if saga_id in self._changes.records:
            self._changes.again.append(Look(saga_id))
        else:
            self._due[saga_id] = Due(record, self._transition(record, _fired(timer)))

    def _transition(self, record: Record, signal: Signal) -> Transition[Any]:
        instance = record.instance
        definition = self._changes.registry.get(instance.saga, instance.version)
        return advance(definition, instance, signal, self._changes.now)

    def _advance(self, record: Record, signal: Signal) -> Record:
        instance = record.instance
        transition = self._transition(record, signal)
        ends_now = instance.ended is None and transition.instance.ended is not None
        if self._is_one and (transition.withdrawn or (ends_now and not self._can_end(instance))):
            raise MustRead
        if ends_now:
            self._changes.ended.append(instance.id)
        after = record.after(transition, self._changes.now)
        after = self._changes.add(record.entries, after, transition)
        self._keep(after)
        return after

    def _can_end(self, instance: Instance[Any]) -> bool:
        return self._may_end or not ends.may_have_aliases(self._changes, instance)

    def _keep(self, record: Record) -> None:
        self._found[record.instance.id] = self._changes.records[record.instance.id] = record

    def _taken(self) -> Sequence[Record]:
        """The runs that took a step, over the revision that they were read in."""
        changes = self._changes
        stepped = list(changes.records.values())
        changes.records = {it.instance.id: replace(it, revision=it.revision + 1) for it in stepped}
        return stepped

    async def _write_runs(self) -> None:
        """Write the runs that took a step: with all the rest, unless other statements must come
        between. A run that ends frees its key for runs that begin; and its aliases are only known
        for sure once its end was written."""
        changes = self._changes
        changes.writes.records = self._taken()
        if (
            self._begins
            or self._due
            or any(ends.may_have_aliases(changes, self._found[it].instance) for it in changes.ended)
        ):
            await changes.ports.statements.write(
                changes.connection,
                Writes(records=changes.writes.records, sizes=changes.writes.sizes),
                changes.now,
            )
            changes.writes.records = ()
        await ends.tell_aliases(changes, ends.tell_originators(changes))

    # Writing the rest

    async def _write_rest(self) -> None:
        changes, connection, ports = self._changes, self._changes.connection, self._changes.ports
        for saga_id, reason in self._newly_parked.items():
            await ports.runs.park(connection, saga_id, reason)
        if changes.withdrawn:
            shards = {record.shard for record in changes.records.values()}
            await ports.runs.withdraw(connection, changes.withdrawn, shards)
        await self._leave_out_what_is_there()
        changes.seqs = await ports.statements.write(connection, changes.writes, changes.now)
        if self._to_store:
            await ports.signals.add(connection, self._to_store)
        if changes.applied:
            await ports.signals.remove(connection, changes.applied)
        for seq, answer in changes.answers.items():
            await ports.signals.answer(connection, seq, answer)

    async def _leave_out_what_is_there(self) -> None:
        """While a message has a row, only its courier repeats it."""
        writes, connection = self._changes.writes, self._changes.connection
        repeated = [it for it in writes.messages if it.repeats]
        if repeated:
            runs = self._changes.ports.runs
            present = await runs.present(connection, repeated, writes.answered)
            await runs.forget_dead_letters(connection, repeated)
            writes.messages = [it for it in writes.messages if it.envelope.id not in present]


def _fired(timer: Timer) -> TimerFired:
    return TimerFired(timer.kind, timer.command_id)


def _changes_a_run(item: Item) -> bool:
    match item:
        case Tell() | Look():
            return True
        case Answer():
            return item.message.envelope.reply_to is not None
        case Begin() | Decline():
            return False
        case _:
            assert_never(item)
