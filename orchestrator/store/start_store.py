"""The statements about starts: idempotency keys, and aliases. Each method is one step of the
caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Text, case, delete, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.machine.instance import Cause
from orchestrator.store.records import standing_of
from orchestrator.tables import SagaTables
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
    the run with its cause; REFUSED where it began none, None while it lives.

    `name` is the saga, None where the start was refused; `fingerprint` is that of the start, None
    where older code took it in.
    """

    start_id: str | None
    ended: str | None
    cause: Cause | None = None
    name: str | None = None
    originator: str | None = None
    fingerprint: str | None = None

    @property
    def told(self) -> str:
        """The start in words."""
        by = self.originator or "a caller of the API"
        what = "that was refused" if self.name is None else f"of {self.name}"
        return f"a start {what}, by {by}"


class StartStore(DatabaseClock):
    """Idempotency keys, and the starts that began no run."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def claim_keys(
        self, connection: AsyncConnection, keys: Sequence[StartKey]
    ) -> Mapping[tuple[str, str], StartKey]:
        """Write new idempotency keys, in one order for all nodes. Returns the keys as they stand
        then, by saga and text."""
        saga_start_key = self._tables.saga_start_key
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
        saga_start_key = self._tables.saga_start_key
        await connection.execute(
            delete(saga_start_key).where(saga_start_key.c.saga_id.in_(sorted(saga_ids)))
        )

    async def existing(
        self, connection: AsyncConnection, ids: Collection[str]
    ) -> Mapping[str, Known]:
        """The outcomes of those ids that are runs or aliases already."""
        tables = self._tables
        saga = tables.saga
        saga_alias = tables.saga_alias
        wanted = sorted(ids)
        has_ended = saga.c.ended_at.is_not(None)
        ended = case((has_ended, saga.c.status))
        of_run = (saga.c.name, case((has_ended, saga.c.document)).label("document"))
        runs = select(
            *(saga.c[name] for name in _OF_START),
            ended.label("ended"),
            *of_run,
            literal(None, Text).label("reason"),
        ).where(saga.c.id.in_(wanted))
        aliases = (
            select(
                *(saga_alias.c[name] for name in _OF_START),
                # A tombstone says itself how its run ended.
                case(
                    (saga_alias.c.ended.is_not(None), saga_alias.c.ended),
                    (saga_alias.c.saga_id.is_(None), REFUSED),
                    else_=ended,
                ).label("ended"),
                func.coalesce(saga.c.name, saga_alias.c.name).label("name"),
                of_run[1],
                saga_alias.c.reason,
            )
            .select_from(saga_alias.outerjoin(saga, saga.c.id == saga_alias.c.saga_id))
            .where(saga_alias.c.id.in_(wanted))
        )
        return {
            row.id: Known(
                row.start_id,
                row.ended,
                _cause(row.document, row.reason),
                row.name,
                row.originator,
                row.fingerprint,
            )
            for row in await connection.execute(runs.union_all(aliases))
        }

    async def removed_below(self, connection: AsyncConnection) -> str | None:
        """The id below which an absent one may be that of a run that was removed. Call it after
        `existing`: what was removed since is found by one of the two."""
        below = self._tables.saga_retention.c.below
        found: str | None = await connection.scalar(select(below))
        return found

    async def active(self, connection: AsyncConnection, name: str, key: str) -> str | None:
        """The active run for that key, which cannot end before this transaction has."""
        saga = self._tables.saga
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
        fingerprint: str | None,
    ) -> None:
        """Write a start that began no run: an alias of a run, or a refusal with its reason."""
        saga_alias = self._tables.saga_alias
        await connection.execute(
            self._insert(saga_alias)
            .values(
                id=alias,
                saga_id=saga_id,
                originator=originator,
                reason=reason,
                trace=trace,
                start_id=start_id,
                fingerprint=fingerprint,
                made_at=self._now,
            )
            .on_conflict_do_nothing()
        )

    async def forget_history(self, connection: AsyncConnection, saga_id: str) -> None:
        """Delete the history of a run that became an alias."""
        saga_history = self._tables.saga_history
        await connection.execute(delete(saga_history).where(saga_history.c.saga_id == saga_id))

    async def aliases(
        self, connection: AsyncConnection, saga_ids: Collection[str]
    ) -> Sequence[AliasRow]:
        """The aliases of these runs. Call it after the runs are written; no alias can be added
        after that."""
        saga_alias = self._tables.saga_alias
        of_alias = saga_alias.c
        statement = select(
            of_alias.saga_id, of_alias.id, of_alias.originator, of_alias.trace, of_alias.start_id
        ).where(of_alias.saga_id.in_(sorted(saga_ids)))
        return [AliasRow(*it) for it in await connection.execute(statement)]


_OF_START = ("id", "start_id", "originator", "fingerprint")


def refusal(reason: str) -> Cause:
    """The cause that is told of a start that was refused."""
    return Cause("refused", reason)


def _cause(document: str | None, reason: str | None) -> Cause | None:
    if reason is not None:
        return refusal(reason)
    return None if document is None else standing_of(document).cause
