"""The starts in a group commit: keys, aliases, refusals, and the runs that begin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.engine.commits import ends
from orchestrator.engine.commits.changes import Changes
from orchestrator.engine.commits.items import Begin, Decline, Started
from orchestrator.errors import ActiveAlready, InvalidInput, KeyReused, OrchestratorError
from orchestrator.machine.machine import start
from orchestrator.machine.transition import Transition
from orchestrator.store.records import Record, number_of
from orchestrator.store.sharding import shard_of
from orchestrator.store.start_store import REFUSED, Known, StartKey
from outbox import tracing
from outbox.contract import SagaEnded
from outbox.wire.traceparent import minted

log = logging.getLogger(__name__)


class Starts:
    """The starts of one group commit, and what becomes of each."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._connection = changes.connection
        self._store = changes.ports.starts

    async def begin(self, begins: Sequence[Begin]) -> None:
        """Begin these runs, or conclude the starts in another way."""
        begins = await self._only_new(begins)
        begins = await self._with_keys(begins)
        new: dict[str, tuple[Begin, Record, Transition[Any]]] = {}
        for item in begins:
            try:
                transition = start(item.definition, item.instance_id, item.state, self._changes.now)
            except InvalidInput as error:
                await self._cannot_begin(item, error)
                continue
            record = Record(
                transition.instance,
                originator=item.originator,
                trace=item.trace,
                start_id=item.start_id,
                number=number_of(item.instance_id, self._changes.now),
            )
            new[item.instance_id] = (item, record.after(transition, self._changes.now), transition)
        if not new:
            return
        written = await self._changes.ports.statements.insert(
            self._connection, [record for _, record, _ in new.values()], self._changes.now
        )
        for saga_id, (item, record, transition) in new.items():
            if saga_id not in written:
                await self._lost_to_another(item, record.instance.key)
                continue
            self._changes.add(0, record, transition)
            self._changes.records[saga_id] = replace(record, revision=1)
            self._changes.writes.sizes[saga_id] = written[saga_id]
            self._changes.conclude(item, Started(saga_id, is_new=True))

    async def _only_new(self, begins: Sequence[Begin]) -> list[Begin]:
        """Leave out the starts of runs that exist already. A start by message may come again long
        after it was carried out; another message that asks for the same run is answered once there
        is an answer."""
        known = await self._store.existing(
            self._connection, [it.instance_id for it in begins if it.seq is not None]
        )
        first: dict[str, Begin] = {}
        for item in begins:
            if item.instance_id in known or item.instance_id in first:
                self._answer_again(item, known.get(item.instance_id))
                self._changes.conclude(item, Started(item.instance_id, is_new=False))
            else:
                first[item.instance_id] = item
        return list(first.values())

    def _answer_again(self, item: Begin | Decline, known: Known | None) -> None:
        """Answer another message for the same run as the first one was answered. While the run
        lives, its end answers both."""
        if known is None or known.ended is None or item.start_id is None or not item.originator:
            return
        if item.start_id != (known.start_id or item.instance_id):
            trace = item.trace or minted(item.instance_id)
            shard = shard_of(item.instance_id)
            ends.add_saga_ended(
                self._changes,
                item.originator,
                SagaEnded(item.instance_id, known.ended),
                shard,
                item.start_id,
                trace,
            )

    async def _with_keys(self, begins: Sequence[Begin]) -> list[Begin]:
        wanted: list[StartKey] = [it.key for it in begins if it.key is not None]
        if not wanted:
            return list(begins)
        standing = await self._store.claim_keys(self._connection, wanted)
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

    async def _lost_to_another(self, item: Begin, key: str) -> None:
        """Conclude a start whose run could not be written, since another one is active for its
        key."""
        definition = item.definition
        active = await self._store.active(self._connection, definition.name, key)
        if active is None:
            # The other run has ended in this moment.
            await self._release(item)
            item.tries += 1
            self._changes.again.append(item)
        elif item.seq is None:
            await self._cannot_begin(item, ActiveAlready(definition.name, key, active))
        else:
            await self._store.add_alias(
                self._connection,
                item.instance_id,
                saga_id=active,
                originator=item.originator,
                reason=None,
                trace=item.trace,
                start_id=item.start_id,
            )
            self._changes.conclude(item, None)

    async def _cannot_begin(self, item: Begin, error: OrchestratorError) -> None:
        await self._release(item)
        if item.seq is not None:
            reason, originator = str(error), item.originator or ""
            await self.decline(
                Decline(item.instance_id, originator, reason, item.seq, item.trace, item.start_id)
            )
        else:
            self._changes.conclude(item, error)

    async def _release(self, item: Begin) -> None:
        if item.key is not None:
            await self._store.release_keys(self._connection, [item.instance_id])

    async def decline(self, item: Decline) -> None:
        """Refuse a start that came by a message, and tell the service that asked."""
        self._changes.applied.append(item.seq)
        known = await self._store.existing(self._connection, [item.instance_id])
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
        await self._store.add_alias(
            self._connection,
            item.instance_id,
            saga_id=None,
            originator=item.originator,
            reason=item.reason,
            trace=item.trace,
            start_id=item.start_id,
        )
        shard = shard_of(item.instance_id)
        event = SagaEnded(item.instance_id, REFUSED, code="refused", reason=item.reason)
        ends.add_saga_ended(self._changes, item.originator, event, shard, item.start_id, trace)
