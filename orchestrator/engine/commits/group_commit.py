"""One transaction in which many runs take a step.

It reads the runs, lets the machine decide, and writes all that follows. The caller begins and
commits, and does with the outcomes what the commit allows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits import run_log
from orchestrator.engine.commits.items import Answer, Begin, Decline, Look, Started, Tell, Work
from orchestrator.engine.ports import EnginePorts
from orchestrator.errors import (
    ActiveAlready,
    InvalidInput,
    KeyReused,
    OrchestratorError,
    Unavailable,
    UnknownRun,
)
from orchestrator.machine.machine import advance, start
from orchestrator.machine.signals import OperatorSignal, Replied, Signal, TimerFired
from orchestrator.machine.transition import Dispatch, Transition
from orchestrator.safe_text import described
from orchestrator.store import outgoing, signal_rows
from orchestrator.store.commit_statements import Writes
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.records import Record, number_of, record_of
from orchestrator.store.sharding import shard_of
from orchestrator.store.start_store import REFUSED, Known, StartKey
from outbox import tracing
from outbox.wire.traceparent import minted

log = logging.getLogger(__name__)


class GroupCommit:
    """`cached` has runs as they stand in the database; it is not changed."""

    def __init__(
        self,
        connection: AsyncConnection,
        ports: EnginePorts,
        registry: Registry,
        cached: Mapping[str, Record],
        now: datetime,
    ) -> None:
        self._connection = connection
        self._ports = ports
        self._registry = registry
        self._now = now
        self._cached = cached
        self.records: dict[str, Record] = {}
        """The runs that were written, as they stand after the commit."""
        self.parked: dict[str, str] = {}
        """Runs that this code cannot work on, with the reason."""
        self.seqs: Mapping[str, int] = {}
        """Its numbers, by the ids of the messages."""
        self.withdrawn: set[str] = set()
        """Messages that were taken out of the outbox."""
        self.again: list[Work] = []
        """What is to be done in a later commit."""
        self.ended: list[str] = []
        """The runs that came to their end."""
        self.news: list[run_log.News] = []
        """What the log is to be told after the commit."""
        self.transitions = 0
        self._found: dict[str, Record] = {}
        self._outcomes: list[tuple[asyncio.Future[Any], Any]] = []
        self._writes = Writes()
        self._newly_parked: dict[str, str] = {}
        self._applied: list[int] = []
        self._answers: dict[int, str] = {}
        self._to_store: list[tuple[str, int, str, str]] = []
        self._begins: list[Begin] = []

    async def work(self, items: Sequence[Work]) -> None:
        """Do all of it, up to the commit. Raises StaleRuns, and what the database raises."""
        self._begins = [it for it in items if isinstance(it, Begin)]
        beginning = {it.instance_id for it in self._begins}
        await self._read({it.instance_id for it in items if _changes_a_run(it)})
        for item in items:
            match item:
                case Begin():
                    pass
                case Decline():
                    await self._decline(item)
                case Tell() if item.instance_id in beginning:
                    self.again.append(item)
                case Tell():
                    self._tell(item)
                case Answer():
                    self._answer(item)
                case Look():
                    self._look(item)
                case _:
                    assert_never(item)
        await self._write_runs()
        if self._begins:
            await self._begin(self._begins)
        await self._write_rest()

    @property
    def messages(self) -> Sequence[OutgoingMessage]:
        """What was added to the outbox."""
        return self._writes.messages

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many bytes each of the written runs takes in the database."""
        return self._writes.sizes

    def resolve(self) -> None:
        """Tell those who wait: what was done is durable now."""
        for future, outcome in self._outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    # Reading

    async def _read(self, ids: Collection[str]) -> None:
        self._found = {it: self._cached[it] for it in ids if it in self._cached}
        missing = [it for it in ids if it and it not in self._found]
        if not missing:
            return
        for row in await self._ports.runs.load(self._connection, missing):
            definition = self._registry.find(row.name, row.version)
            if row.parked is not None:
                self.parked[row.id] = row.parked
            elif definition is None:
                self._park(row.id, f"{row.name} v{row.version} is not registered here")
            else:
                try:
                    self._found[row.id] = record_of(row, definition)
                except ValueError as error:
                    self._park(row.id, f"what is stored does not fit the code: {described(error)}")

    def _park(self, saga_id: str, reason: str) -> None:
        log.error("saga %s is parked: %s", saga_id, reason, extra={"saga": saga_id})
        self.parked[saga_id] = self._newly_parked[saga_id] = reason

    # What happened to runs

    def _tell(self, item: Tell) -> None:
        record = self._found.get(item.instance_id)
        error: OrchestratorError | None = None
        if item.instance_id in self.parked:
            if item.seq is not None:
                return  # it stays where it is until the run can be worked on
            error = Unavailable(f"the run is parked: {self.parked[item.instance_id]}")
        elif record is None:
            error = UnknownRun(item.instance_id)
        else:
            try:
                self._advance(record, item.signal)
            except OrchestratorError as refused:
                error = refused
        if item.done is not None:
            self._outcomes.append((item.done, error))
        if item.seq is not None:
            if isinstance(item.signal, OperatorSignal):
                self._answers[item.seq] = signal_rows.dump_answer(error)
            else:
                self._applied.append(item.seq)

    def _answer(self, item: Answer) -> None:
        self._writes.answered.append(item.message.seq)
        envelope = item.message.envelope
        if envelope.reply_to is None:
            return
        signal = Replied(envelope.id, item.reply)
        record = self._found.get(item.instance_id)
        if record is not None:
            self._advance(record, signal)
        elif item.instance_id in self.parked:
            kind, payload = signal_rows.dump(signal)
            shard = shard_of(item.instance_id)
            self._to_store.append((item.instance_id, shard, kind, payload))
        else:
            log.warning(
                "an answer to %s of no saga is left out",
                envelope.id,
                extra=tracing.fields_of(envelope),
            )

    def _look(self, item: Look) -> None:
        record = self._found.get(item.instance_id)
        if record is None:
            return
        due = sorted((it for it in record.timers if it.due <= self._now), key=lambda it: it.due)
        # What fired stands no longer; the machine sets it again where it is to.
        left = tuple(it for it in record.timers if it.due > self._now)
        record = replace(record, timers=left, due_at=None)
        for timer in due:
            record = self._advance(record, TimerFired(timer.kind, timer.command_id))
        if not due:
            # It was looked at too early, on purpose; from now on the right time stands there.
            first = min((it.due for it in left), default=None)
            self._keep(replace(record, due_at=first))

    def _advance(self, record: Record, signal: Signal) -> Record:
        instance = record.instance
        definition = self._registry.get(instance.saga, instance.version)
        transition = advance(definition, instance, signal, self._now)
        if instance.ended is None and transition.instance.ended is not None:
            self.ended.append(instance.id)
        after = record.after(transition, self._now)
        self._collect(record, after, transition)
        self._keep(after)
        return after

    def _keep(self, record: Record) -> None:
        self._found[record.instance.id] = self.records[record.instance.id] = record

    def _collect(self, before: Record, after: Record, transition: Transition[Any]) -> None:
        self.transitions += 1
        saga_id, shard = after.instance.id, after.shard
        self._writes.history += [
            (saga_id, before.entries + place, entry)
            for place, entry in enumerate(transition.history, 1)
        ]
        if transition.withdrawn:
            self.withdrawn.update(transition.withdrawn)
            self._writes.messages = [
                it for it in self.messages if it.envelope.id not in self.withdrawn
            ]
        self.news += run_log.worth_telling(after, transition.history)
        for dispatch in transition.commands:
            awaited = after.instance.steps[dispatch.step].awaited
            repeats = awaited is not None and awaited.sendings > 1
            trace = self._trace_of(dispatch, after)
            self._writes.messages.append(
                outgoing.command(
                    dispatch,
                    saga_id,
                    shard,
                    self._now,
                    number=after.number,
                    trace=trace,
                    repeats=repeats,
                )
            )

    def _trace_of(self, dispatch: Dispatch, record: Record) -> str:
        own = record.traceparent
        made = tracing.of_new_message(
            dispatch.id, dispatch.type, own, saga=record.instance.id, step=dispatch.step
        )
        return made or own

    async def _write_runs(self) -> None:
        """Write the runs that took a step: with all the rest, unless something must come between.
        A run that ends frees its key for those that begin; and who asked for it by another id is
        only known for sure once its end was written."""
        self._writes.records = list(self.records.values())
        self.records = {
            saga_id: replace(record, revision=record.revision + 1)
            for saga_id, record in self.records.items()
        }
        if self._begins or any(self._may_have_aliases(it) for it in self.ended):
            await self._ports.statements.write(
                self._connection,
                Writes(records=self._writes.records, sizes=self._writes.sizes),
                self._now,
            )
            self._writes.records = ()
        await self._tell_originators()

    def _may_have_aliases(self, saga_id: str) -> bool:
        instance = self.records[saga_id].instance
        return self._registry.get(instance.saga, instance.version).one_active

    async def _tell_originators(self) -> None:
        for saga_id in self.ended:
            record = self.records[saga_id]
            self._tell_of_end(
                saga_id, saga_id, record.originator, record.start_id, record.traceparent
            )
        named = [saga_id for saga_id in self.ended if self._may_have_aliases(saga_id)]
        if not named:
            return
        for alias in await self._ports.starts.aliases(self._connection, named):
            trace = alias.trace or minted(alias.id)
            self._tell_of_end(alias.id, alias.saga_id, alias.originator, alias.start_id, trace)

    def _tell_of_end(
        self, told: str, saga_id: str, originator: str | None, start_id: str | None, trace: str
    ) -> None:
        if originator is not None:
            status = self.records[saga_id].instance.status.value
            self._write_to(originator, told, status, shard_of(saga_id), start_id, trace)

    def _write_to(
        self,
        originator: str,
        saga_id: str,
        status: str,
        shard: int,
        start_id: str | None,
        trace: str,
    ) -> None:
        if originator not in self._registry.participants:
            log.warning(
                "nobody knows where %s is; it is not told of saga %s",
                originator,
                saga_id,
                extra={"saga": saga_id, **tracing.fields_of_trace(trace)},
            )
            return
        self._writes.messages.append(
            outgoing.ended(
                saga_id, status, originator, shard, self._now, start_id=start_id, trace=trace
            )
        )

    # Starts

    async def _begin(self, begins: Sequence[Begin]) -> None:
        begins = await self._only_new(begins)
        begins = await self._with_keys(begins)
        new: dict[str, tuple[Begin, Record, Transition[Any]]] = {}
        for item in begins:
            try:
                transition = start(item.definition, item.instance_id, item.state, self._now)
            except InvalidInput as error:
                await self._cannot_begin(item, error)
                continue
            record = Record(
                transition.instance,
                originator=item.originator,
                trace=item.trace,
                start_id=item.start_id,
                number=number_of(item.instance_id, self._now),
            )
            new[item.instance_id] = (item, record.after(transition, self._now), transition)
        if not new:
            return
        written = await self._ports.statements.insert(
            self._connection, [record for _, record, _ in new.values()], self._now
        )
        for saga_id, (item, record, transition) in new.items():
            if saga_id not in written:
                await self._lost_to_another(item, record.instance.key)
                continue
            self._collect(replace(record, entries=0), record, transition)
            self.records[saga_id] = replace(record, revision=1)
            self._writes.sizes[saga_id] = written[saga_id]
            self._done(item, Started(saga_id, is_new=True))

    async def _only_new(self, begins: Sequence[Begin]) -> list[Begin]:
        """A start that came by a message may come again, long after it was carried out. One that
        came by another message is answered in its turn, once there is an answer."""
        known = await self._ports.starts.existing(
            self._connection, [it.instance_id for it in begins if it.seq is not None]
        )
        first: dict[str, Begin] = {}
        for item in begins:
            if item.instance_id in known or item.instance_id in first:
                self._answer_again(item, known.get(item.instance_id))
                self._done(item, Started(item.instance_id, is_new=False))
            else:
                first[item.instance_id] = item
        return list(first.values())

    def _answer_again(self, item: Begin | Decline, known: Known | None) -> None:
        """Tell another message that asked for the same what the first was told. While the run lives
        its end is still to be told."""
        if known is None or known.ended is None or item.start_id is None or not item.originator:
            return
        if item.start_id != (known.start_id or item.instance_id):
            trace = item.trace or minted(item.instance_id)
            shard = shard_of(item.instance_id)
            self._write_to(
                item.originator, item.instance_id, known.ended, shard, item.start_id, trace
            )

    async def _with_keys(self, begins: Sequence[Begin]) -> list[Begin]:
        wanted: list[StartKey] = [it.key for it in begins if it.key is not None]
        if not wanted:
            return list(begins)
        standing = await self._ports.starts.claim_keys(self._connection, wanted)
        beginning = {item.instance_id for item in begins}
        left = []
        for item in begins:
            if item.key is None:
                left.append(item)
                continue
            stands = standing[item.key.name, item.key.key]
            if stands.saga_id == item.instance_id:
                left.append(item)
            elif stands.saga_id in beginning:
                # Asked for twice at once: whether the other one begins is known after this commit.
                self.again.append(item)
            elif stands.fingerprint == item.key.fingerprint:
                self._done(item, Started(stands.saga_id, is_new=False))
            else:
                self._done(item, KeyReused(item.key.name, stands.saga_id))
        return left

    async def _lost_to_another(self, item: Begin, key: str) -> None:
        """The run could not be written: another one is active for its key."""
        definition = item.definition
        active = await self._ports.starts.active(self._connection, definition.name, key)
        if active is None:
            # It has ended in this moment.
            await self._release(item)
            item.tries += 1
            self.again.append(item)
        elif item.seq is None:
            await self._cannot_begin(item, ActiveAlready(definition.name, key, active))
        else:
            await self._ports.starts.add_alias(
                self._connection,
                item.instance_id,
                saga_id=active,
                originator=item.originator,
                reason=None,
                trace=item.trace,
                start_id=item.start_id,
            )
            self._done(item, None)

    async def _cannot_begin(self, item: Begin, error: OrchestratorError) -> None:
        await self._release(item)
        if item.seq is not None:
            reason, originator = str(error), item.originator or ""
            await self._decline(
                Decline(item.instance_id, originator, reason, item.seq, item.trace, item.start_id)
            )
        else:
            self._done(item, error)

    async def _release(self, item: Begin) -> None:
        if item.key is not None:
            await self._ports.starts.release_keys(self._connection, [item.instance_id])

    async def _decline(self, item: Decline) -> None:
        self._applied.append(item.seq)
        known = await self._ports.starts.existing(self._connection, [item.instance_id])
        if known:
            self._answer_again(item, known[item.instance_id])
            return
        trace = item.trace or minted(item.instance_id)
        log.error(
            "the start of saga %s is refused: %s",
            item.instance_id,
            item.reason,
            extra={"saga": item.instance_id, **tracing.fields_of_trace(trace)},
        )
        await self._ports.starts.add_alias(
            self._connection,
            item.instance_id,
            saga_id=None,
            originator=item.originator,
            reason=item.reason,
            trace=item.trace,
            start_id=item.start_id,
        )
        shard = shard_of(item.instance_id)
        self._write_to(item.originator, item.instance_id, REFUSED, shard, item.start_id, trace)

    def _done(self, item: Begin, outcome: Started | OrchestratorError | None) -> None:
        if item.done is not None:
            self._outcomes.append((item.done, outcome))
        if item.seq is not None:
            self._applied.append(item.seq)

    # Writing the rest

    async def _write_rest(self) -> None:
        connection, ports = self._connection, self._ports
        for saga_id, reason in self._newly_parked.items():
            await ports.runs.park(connection, saga_id, reason)
        if self.withdrawn:
            shards = {record.shard for record in self.records.values()}
            await ports.runs.withdraw(connection, self.withdrawn, shards)
        await self._leave_out_what_is_there()
        self.seqs = await self._ports.statements.write(connection, self._writes, self._now)
        if self._to_store:
            await ports.signals.add(connection, self._to_store)
        if self._applied:
            await ports.signals.remove(connection, self._applied)
        for seq, answer in self._answers.items():
            await ports.signals.answer(connection, seq, answer)

    async def _leave_out_what_is_there(self) -> None:
        """While a row stands, only its courier repeats it."""
        repeated = [it for it in self.messages if it.repeats]
        if repeated:
            present = await self._ports.runs.present(
                self._connection, repeated, self._writes.answered
            )
            await self._ports.runs.forget_dead_letters(self._connection, repeated)
            self._writes.messages = [it for it in self.messages if it.envelope.id not in present]


def _changes_a_run(item: Work) -> bool:
    match item:
        case Tell() | Look():
            return True
        case Answer():
            return item.message.envelope.reply_to is not None
        case Begin() | Decline():
            return False
        case _:
            assert_never(item)


def by_run(items: Iterable[Work]) -> dict[str, list[Work]]:
    """The items of each run, in their order."""
    found: dict[str, list[Work]] = {}
    for item in items:
        found.setdefault(item.instance_id, []).append(item)
    return found
