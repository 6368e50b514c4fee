"""The starts in a group commit: keys, aliases, refusals, and the runs that begin."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.engine.commits import ends
from orchestrator.engine.commits.changes import Changes, MustRead
from orchestrator.engine.commits.items import Begin, Decline, Look, Started
from orchestrator.errors import ActiveAlready, InvalidInput, KeyReused, OrchestratorError
from orchestrator.machine.instance import Cause
from orchestrator.machine.machine import start
from orchestrator.machine.transition import Transition
from orchestrator.retention.remembering import is_forgotten, may_be_removed
from orchestrator.store.records import Record, number_of
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import dump_answer
from orchestrator.store.start_store import (
    REFUSED,
    Known,
    StartKey,
    refusal,
)
from outbox import tracing
from outbox.contract import SagaEnded
from outbox.ids import time_of
from outbox.replacing import replace
from outbox.wire.traceparent import minted

log = logging.getLogger(__name__)

REUSED = "id-reused"
"""The code of a refusal because the id of the run is that of another start."""
FORGOTTEN = "id-forgotten"
"""The code of a refusal because the id may be that of a run that was removed."""


@dataclass(frozen=True, slots=True)
class Due:
    """A scheduled run whose time has come: how it stands, and the step by which it begins."""

    record: Record
    transition: Transition[Any]


class Starts:
    """The starts of one group commit, and what becomes of each."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._store = changes.ports.starts

    async def begin(self, begins: Sequence[Begin], due: Sequence[Due]) -> None:
        """Begin these runs, or conclude the starts in another way. A run that is due takes its key
        as a new one does, so it is inserted anew."""
        changes = self._changes
        begins = await self._only_new(begins)
        begins = await self._with_keys(begins)
        new: dict[str, tuple[Begin | Due, Record, Transition[Any]]] = {}
        for item in begins:
            try:
                made = self._made(item)
            except InvalidInput as error:
                await self._cannot_begin(item, error)
                continue
            new[item.instance_id] = (item, *made)
        for it in due:
            new[it.record.instance.id] = (it, self._begun(it), it.transition)
        if due:
            await changes.ports.runs.take_out(changes.connection, [it.record for it in due])
        if not new:
            return
        records = [record for _, record, _ in new.values()]
        written = await changes.ports.statements.insert(changes.connection, records, changes.now)
        for saga_id, (asked, record, transition) in new.items():
            if saga_id not in written:
                await self._lost_to_another(asked, record)
                continue
            changes.writes.sizes[saga_id] = written[saga_id]
            self._has_begun(asked, record, transition)

    def gather(self, begins: Sequence[Begin]) -> None:
        """Begin these runs, in a commit that fails where one of them or its key is there already,
        or loses to another. Raises MustRead."""
        if any(it.is_by_message and self._is_old(it.instance_id) for it in begins):
            raise MustRead
        try:
            made = [(it, *self._made(it)) for it in begins]
        except InvalidInput as error:
            raise MustRead from error
        writes = self._changes.writes
        writes.begun = [self._has_begun(*each) for each in made]
        writes.keys = [it.key for it in begins if it.key is not None]
        writes.unknown = [it.instance_id for it in begins if it.is_by_message]

    def _has_begun(self, asked: Begin | Due, record: Record, transition: Transition[Any]) -> Record:
        saga_id = record.instance.id
        # Where the run was written already, its next write has the spans that are added here.
        record = self._changes.add(record.entries - len(transition.history), record, transition)
        self._changes.records[saga_id] = replace(record, revision=record.revision + 1)
        if isinstance(asked, Begin):
            self._changes.conclude(asked, Started(saga_id, is_new=True))
        return record

    def _made(self, item: Begin) -> tuple[Record, Transition[Any]]:
        """The run of a start, and its first step. Raises InvalidInput."""
        now = self._changes.now
        transition = start(
            *(item.definition, item.instance_id, item.state, now, item.begin_at), key=item.saga_key
        )
        has_begun = transition.instance.begin_at is None
        record = Record(
            transition.instance,
            originator=item.originator,
            trace=item.trace,
            start_id=item.start_id,
            number=number_of(item.instance_id, now) if has_begun else None,
            fingerprint=item.fingerprint,
        )
        return record.after(transition, now), transition

    def _begun(self, due: Due) -> Record:
        now = self._changes.now
        number = number_of(due.record.instance.id, now)
        # Its timer has fired.
        return replace(due.record, timers=(), due_at=None, number=number).after(due.transition, now)

    async def _only_new(self, begins: Sequence[Begin]) -> list[Begin]:
        """Leave out the starts of runs that exist already. A start by message may come again long
        after it was carried out; another message that asks for the same run is answered once there
        is an answer."""
        known = await self._store.existing(
            self._changes.connection, [it.instance_id for it in begins if it.is_by_message]
        )
        below = await self._removed_below(
            it.instance_id for it in begins if it.is_by_message and it.instance_id not in known
        )
        first: dict[str, Begin] = {}
        for item in begins:
            if item.is_by_message and is_forgotten(item.instance_id, known, below):
                self._refuse_forgotten(item)
                self._changes.conclude(item, Started(item.instance_id, is_new=False))
                continue
            there = known.get(item.instance_id) or _asked_for(first.get(item.instance_id))
            if there is None:
                first[item.instance_id] = item
            else:
                self._answer_again(item, there)
                self._changes.conclude(item, Started(item.instance_id, is_new=False))
        return list(first.values())

    def _is_old(self, instance_id: str) -> bool:
        """Whether a run of that id may have been removed."""
        return may_be_removed(instance_id, self._changes.now)

    async def _removed_below(self, ids: Iterable[str]) -> str | None:
        """The id below which one of these may be that of a run that was removed; None where all of
        them are too young for that."""
        if any(map(self._is_old, ids)):
            return await self._store.removed_below(self._changes.connection)
        return None

    def _refuse_forgotten(self, item: Begin | Decline) -> None:
        """Refuse the start of a run that may have been there, and was removed since: it must not
        begin a second time."""
        made = time_of(item.instance_id)
        reason = (
            f"the id {item.instance_id} was made {made:%Y-%m-%d %H:%M} UTC, and runs of that time "
            "were removed by the retention of this orchestrator: whether this one ran cannot be "
            "told any more. Look for it in the archive; if it never ran, start it under a new id"
        )
        log.error(
            "the start of saga %s is refused: %s",
            item.instance_id,
            reason,
            extra={"saga": item.instance_id, **tracing.fields_of_trace(_trace_of(item))},
        )
        if item.originator:
            self._tell(item, REFUSED, Cause(FORGOTTEN, reason))

    def _answer_again(self, item: Begin | Decline, known: Known) -> None:
        """Answer another message for the same run as the first one was answered. While the run
        lives, its end answers both. One that asks for something else is refused."""
        if item.start_id is None or not item.originator:
            return
        if None not in (known.fingerprint, item.fingerprint) and (
            known.fingerprint != item.fingerprint
        ):
            self._refuse(item, item.start_id, known)
        elif known.ended is not None and item.start_id != (known.start_id or item.instance_id):
            self._tell(item, known.ended, known.cause)

    def _refuse(self, item: Begin | Decline, start_id: str, known: Known) -> None:
        reason = (
            f"{item.instance_id} is the id of {known.told}, and this is another one: {item.told}; "
            "saga, input and sender are the same under one id, so give this start an id of its own"
        )
        log.error(
            "the start %s is refused: %s",
            start_id,
            reason,
            extra={"saga": item.instance_id, **tracing.fields_of_trace(_trace_of(item))},
        )
        self._tell(item, REFUSED, Cause(REUSED, reason))

    def _tell(self, item: Begin | Decline, status: str, cause: Cause | None) -> None:
        """Tell the service that asked how its start stands."""
        ends.add_saga_ended(
            self._changes,
            item.originator or "",
            SagaEnded(
                item.instance_id,
                status,
                code=None if cause is None else cause.code,
                reason=None if cause is None else cause.reason,
            ),
            shard_of(item.instance_id),
            item.start_id,
            _trace_of(item),
        )

    async def _with_keys(self, begins: Sequence[Begin]) -> list[Begin]:
        wanted: list[StartKey] = [it.key for it in begins if it.key is not None]
        if not wanted:
            return list(begins)
        standing = await self._store.claim_keys(self._changes.connection, wanted)
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
                # The same run is asked for twice; whether the other start begins it is known after
                # this commit.
                self._changes.again.append(item)
            elif stands.fingerprint == item.key.fingerprint:
                self._changes.conclude(item, Started(stands.saga_id, is_new=False))
            else:
                self._changes.conclude(item, KeyReused(item.key.name, stands.saga_id))
        return left

    async def _lost_to_another(self, asked: Begin | Due, record: Record) -> None:
        """Conclude a start whose run could not be written, since another one is active for its
        key."""
        name, key = record.instance.saga, record.instance.key
        active = await self._store.active(self._changes.connection, name, key)
        match asked:
            case Due(record=before) if active is None:
                # The other run has ended in this moment.
                await self._changes.ports.statements.insert(
                    self._changes.connection, [before], self._changes.now
                )
                self._changes.again.append(Look(before.instance.id))
            case Due():
                await self._store.forget_history(self._changes.connection, record.instance.id)
                await self._join(record, active)
            case Begin() if active is None:
                await self._release(asked)
                asked.tries += 1
                self._changes.again.append(asked)
            case Begin(is_by_message=False):
                await self._cannot_begin(asked, ActiveAlready(name, key, active))
            case Begin():
                await self._join(record, active)
                self._changes.conclude(asked, None)

    async def _join(self, record: Record, active: str | None) -> None:
        """Keep the start of that run as an alias of the active one."""
        await self._store.add_alias(
            self._changes.connection,
            record.instance.id,
            saga_id=active,
            originator=record.originator,
            reason=None,
            trace=record.trace,
            start_id=record.start_id,
            fingerprint=record.fingerprint,
        )

    async def _cannot_begin(self, item: Begin, error: OrchestratorError) -> None:
        await self._release(item)
        if item.is_by_message and item.seq is not None:
            reason, originator = str(error), item.originator or ""
            await self.decline(
                Decline(
                    *(item.instance_id, originator, reason, item.seq, item.trace, item.start_id),
                    item.fingerprint,
                )
            )
        else:
            self._changes.conclude(item, error)

    async def _release(self, item: Begin) -> None:
        if item.key is not None:
            await self._store.release_keys(self._changes.connection, [item.instance_id])

    async def decline(self, item: Decline) -> None:
        """Refuse a start that came by a message, and tell the service that asked."""
        if item.is_asked:
            why = InvalidInput(item.reason, next_step="start all processes with the same code")
            self._changes.answers[item.seq] = dump_answer(why)
            return
        self._changes.applied.append(item.seq)
        known = await self._store.existing(self._changes.connection, [item.instance_id])
        if known:
            self._answer_again(item, known[item.instance_id])
            return
        if is_forgotten(item.instance_id, known, await self._removed_below([item.instance_id])):
            self._refuse_forgotten(item)
            return
        log.error(
            "the start of saga %s is refused: %s",
            item.instance_id,
            item.reason,
            extra={"saga": item.instance_id, **tracing.fields_of_trace(_trace_of(item))},
        )
        await self._store.add_alias(
            self._changes.connection,
            item.instance_id,
            saga_id=None,
            originator=item.originator,
            reason=item.reason,
            trace=item.trace,
            start_id=item.start_id,
            fingerprint=item.fingerprint,
        )
        self._tell(item, REFUSED, refusal(item.reason))


def _trace_of(item: Begin | Decline) -> str:
    return item.trace or minted(item.instance_id)


def _asked_for(item: Begin | None) -> Known | None:
    """The outcome of a start in the same commit."""
    if item is None:
        return None
    return Known(
        item.start_id,
        None,
        name=item.definition.name,
        originator=item.originator,
        fingerprint=item.fingerprint,
    )
