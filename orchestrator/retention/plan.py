"""What a round would remove now, without removing anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.histories import HistoryStore
from orchestrator.retention.letters import LetterStore, Place, place_of
from orchestrator.retention.policy import ENDS, Policy
from orchestrator.retention.store import Group, RetentionStore
from orchestrator.tables import saga_tables
from outbox.clock import Clock
from outbox.database.opening import Database
from outbox.ids import first_at
from outbox.operations.dead_rows import saga_of

COUNTED_UP_TO = 100_000
"""Things of one kind that are counted, at most."""
_PAGE = 500
_PAGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Planned:
    """So many things of a kind that would be removed, the oldest of which ended at that time.
    `status` is that of runs; `age` is the policy's, None for what is kept for ever."""

    what: str
    status: str | None
    age: timedelta | None
    count: int = 0
    oldest: datetime | None = None


async def plan(database: Database, policy: Policy, clock: Clock) -> list[Planned]:
    """What a round would remove now, one line for each kind that there is."""
    postgres = database.engine.dialect.name == "postgresql"
    tables = saga_tables(database.tables)
    store = RetentionStore(tables, postgres=postgres, now=clock.now)
    now, found = clock.now(), list[Planned]()
    async with database.reading.connect() as connection:
        for name in await store.names(connection):
            for status in ENDS:
                age = policy.age(name, status)
                count, oldest = 0, None
                if age is not None:
                    group = Group(name, status, now - age)
                    count, oldest = await store.count_old(connection, group, COUNTED_UP_TO)
                found.append(Planned(name, status.value, age, count, oldest))
        histories = HistoryStore(tables, postgres=postgres, now=clock.now)
        found.append(await _histories(histories, store, connection, policy, now))
        found.append(await _letters(LetterStore(tables), connection, policy.letters, now))
        keys = refused = 0
        if policy.keys is not None:
            before = first_at(now - policy.keys)
            keys = await store.count_keys(connection, before, COUNTED_UP_TO)
        if policy.refused is not None:
            refused = await store.count_refused(
                connection, now - policy.refused, first_at(now - policy.ids), COUNTED_UP_TO
            )
    found.append(Planned("keys", None, policy.keys, keys))
    found.append(Planned("refused", None, policy.refused, refused))
    return found


async def _histories(
    histories: HistoryStore,
    store: RetentionStore,
    connection: AsyncConnection,
    policy: Policy,
    now: datetime,
) -> Planned:
    """Those of runs that stay: a round removes the others with their runs, and before."""
    count, ends = 0, list[datetime]()
    for name in await store.names(connection):
        for status in ENDS:
            age = policy.history_age(name, status)
            if age is None or count >= COUNTED_UP_TO:
                continue
            group, run_age = Group(name, status, now - age), policy.age(name, status)
            since = None if run_age is None else now - run_age
            left = COUNTED_UP_TO - count
            found, oldest = await histories.count_old(connection, group, since, left)
            count += found
            ends += [] if oldest is None else [oldest]
    return Planned("history", None, policy.history, count, min(ends, default=None))


async def _letters(
    letters: LetterStore, connection: AsyncConnection, age: timedelta | None, now: datetime
) -> Planned:
    count, oldest = 0, None
    after: Place | None = None
    while age is not None and count < COUNTED_UP_TO:
        rows = await letters.old_letters(connection, now - age, after, _PAGE, _PAGE_BYTES)
        if not rows:
            break
        after = place_of(rows[-1])
        sagas = {it.id: saga_of(it.headers) for it in rows}
        living = await letters.living(connection, {it for it in sagas.values() if it})
        going = [it for it in rows if sagas[it.id] not in living]
        count += len(going)
        if oldest is None and going:
            oldest = going[0].died_at
    return Planned("dead-letters", None, age, count, oldest)
