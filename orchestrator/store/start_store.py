"""The statements about starts: idempotency keys, and aliases. Each method is one step of the
caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import case, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.tables import saga, saga_alias, saga_start_key
from outbox.database.time import DatabaseClock

REFUSED = "REFUSED"
"""The status in the event SagaEnded of a start that began no run."""


@dataclass(frozen=True, slots=True)
class StartKey:
    """An idempotency key, the fingerprint of its request, and its run."""

    name: str
    key: str
    fingerprint: bytes
    saga_id: str


class AliasRow(NamedTuple):
    """The alias that a start became: its run, its originator, its trace and its message."""

    saga_id: str
    id: str
    originator: str | None
    trace: str | None = None
    start_id: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """The outcome of an id that was used for a start: the start's message, and the final status of
    the run; REFUSED where it began none, None while it lives."""

    start_id: str | None
    ended: str | None


class StartStore(DatabaseClock):
    """Idempotency keys, and the starts that began no run."""

    async def claim_keys(
        self, connection: AsyncConnection, keys: Sequence[StartKey]
    ) -> Mapping[tuple[str, str], StartKey]:
        """Write new idempotency keys, in one order for all nodes. Returns the keys as they stand
        then, by saga and text."""
        rows = [
            {"name": it.name, "key": it.key, "fingerprint": it.fingerprint, "saga_id": it.saga_id}
            for it in sorted(keys, key=lambda it: (it.name, it.key))
        ]
        for row in rows:
            await connection.execute(
                self._insert(saga_start_key).values(**row).on_conflict_do_nothing()
            )
        wanted = sorted({(it.name, it.key) for it in keys})
        found = await connection.execute(
            select(saga_start_key).where(
                tuple_(saga_start_key.c.name, saga_start_key.c.key).in_(wanted)
            )
        )
        return {(it.name, it.key): StartKey(*it) for it in found}

    async def release_keys(self, connection: AsyncConnection, saga_ids: Collection[str]) -> None:
        """Delete the keys of starts that began no run."""
        await connection.execute(
            delete(saga_start_key).where(saga_start_key.c.saga_id.in_(sorted(saga_ids)))
        )

    async def existing(
        self, connection: AsyncConnection, ids: Collection[str]
    ) -> Mapping[str, Known]:
        """The outcomes of those ids that are runs or aliases already."""
        wanted = sorted(ids)
        ended = case((saga.c.ended_at.is_not(None), saga.c.status))
        runs = select(saga.c.id, saga.c.start_id, ended).where(saga.c.id.in_(wanted))
        aliases = (
            select(
                saga_alias.c.id,
                saga_alias.c.start_id,
                case((saga_alias.c.saga_id.is_(None), REFUSED), else_=ended),
            )
            .select_from(saga_alias.outerjoin(saga, saga.c.id == saga_alias.c.saga_id))
            .where(saga_alias.c.id.in_(wanted))
        )
        found = await connection.execute(runs.union_all(aliases))
        return {id: Known(start_id, status) for id, start_id, status in found}

    async def active(self, connection: AsyncConnection, name: str, key: str) -> str | None:
        """The active run for that key, which cannot end before this transaction has."""
        statement = (
            select(saga.c.id)
            .where(saga.c.name == name, saga.c.active_key == key)
            # Not FOR KEY SHARE: its end must wait, so that it finds the alias that is being made.
            .with_for_update(read=True)
        )
        found: str | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def add_alias(
        self,
        connection: AsyncConnection,
        alias: str,
        *,
        saga_id: str | None,
        originator: str | None,
        reason: str | None,
        trace: str | None,
        start_id: str | None,
    ) -> None:
        """Write a start that began no run: an alias of a run, or a refusal with its reason."""
        await connection.execute(
            self._insert(saga_alias)
            .values(
                id=alias,
                saga_id=saga_id,
                originator=originator,
                reason=reason,
                trace=trace,
                start_id=start_id,
                made_at=self._now,
            )
            .on_conflict_do_nothing()
        )

    async def aliases(
        self, connection: AsyncConnection, saga_ids: Collection[str]
    ) -> Sequence[AliasRow]:
        """The aliases of these runs. Call it after the runs are written; no alias can be added
        after that."""
        of_alias = saga_alias.c
        statement = select(
            of_alias.saga_id, of_alias.id, of_alias.originator, of_alias.trace, of_alias.start_id
        ).where(of_alias.saga_id.in_(sorted(saga_ids)))
        return [AliasRow(*it) for it in await connection.execute(statement)]
