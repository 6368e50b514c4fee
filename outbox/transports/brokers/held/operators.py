"""Held messages for operators: see them, try them again, drop them, count them.

Every function is a step in the caller's transaction, which must be READ COMMITTED on PostgreSQL.
The tables are `tables`; where these are not given, those of the session's installation.

    async with sessions.begin() as session:
        await operators.redrive(session, Selection(type="shop.paid.v1"), now=clock.now())

What a saga has asked for is its own matter. Its command that was given up is no more tried from
here, since the saga was told, and may have undone it; and one that waits is not dropped, since the
saga waits for its answer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, not_, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.adding.installation import tables_in
from outbox.database.pages import DEFAULT_LIMIT, Page, page
from outbox.errors import BelongsToSaga, ForgottenByReceiver, InvalidSelection, NoSuchMessage
from outbox.replacing import replace
from outbox.replies import Outcome
from outbox.tables import Tables
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import LaneKey, ToHold
from outbox.transports.brokers.held.rows import State, fingerprint
from outbox.transports.brokers.held.store import Database, HeldStore
from outbox.wire.envelope import from_structured, to_structured

MAX_AT_ONCE = 1000
"""The most messages that one call changes or deletes."""
# As the worker begins the reason of what was answered so.
_TOO_OLD = Outcome.TOO_OLD.value
COUNTED_UP_TO = 100_000


@dataclass(frozen=True)
class Selection:
    """Which held messages are meant: those for which all that is given fits. `before` is a
    moment (aware) before which they were held, and `seqs` are the numbers that the list shows.
    Without anything it is all of them."""

    type: str | None = None
    key: str | None = None
    source: str | None = None
    state: State | None = None
    consumer: str | None = None
    before: datetime | None = None
    seqs: Collection[int] | None = None


@dataclass(frozen=True)
class HeldMessage:
    """A held message. Times are UTC.

    `key` is None where it could not be read, as are id, type and source. `saga` is the saga whose
    command it is. `next_at` is when it is tried again; None where it was given up, or waits behind
    an earlier one of its key. `last_error` says why it is held, or was given up.
    """

    seq: int
    consumer: str
    queue: str
    partition: int
    undo_lane: bool
    key: str | None
    id: str | None
    type: str | None
    source: str | None
    saga: str | None
    state: State
    attempts: int
    next_at: datetime | None
    last_error: str
    held_at: datetime
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """As the packet had them."""


@dataclass(frozen=True)
class HeldCount:
    """The held messages of one state. The count ends at COUNTED_UP_TO for all states together;
    `oldest` is since when the oldest of the counted ones is held, None without any."""

    state: State
    count: int
    oldest: datetime | None


async def list_held(
    database: Database,
    selection: Selection | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    tables: Tables | None = None,
) -> Page[HeldMessage]:
    """Held messages, in the order in which they were held. Raises InvalidSelection for a bad limit
    or cursor."""
    held = (tables or tables_in(database)).inbox_held
    query = select(held).where(_chosen(held.c, selection or Selection()))
    return await page(database, query, (held.c.seq,), _message, limit=limit, cursor=cursor)


async def count_held(
    database: Database, consumer: str, *, tables: Tables | None = None
) -> Sequence[HeldCount]:
    """How many messages that consumer holds, of each state."""
    held = (tables or tables_in(database)).inbox_held
    some = select(held.c.state, held.c.held_at).where(held.c.consumer == consumer)
    counted = some.limit(COUNTED_UP_TO).subquery()
    statement = select(counted.c.state, func.count(), func.min(counted.c.held_at)).group_by(
        counted.c.state
    )
    rows = (await database.execute(statement)).all()
    found = {state: HeldCount(State(state), count, oldest) for state, count, oldest in rows}
    return [found.get(state.value, HeldCount(state, 0, None)) for state in State]


async def redrive(
    database: Database,
    selection: Selection,
    *,
    now: datetime,
    limit: int = MAX_AT_ONCE,
    tables: Tables | None = None,
) -> int:
    """Let these messages be tried again at once, with all attempts before them, the first held
    first. Returns how many; at most `limit` are, so call it until it returns 0.

    What was given up comes back to its place in its key; what rests is due now. What only waits
    behind an earlier one, or is due already with all attempts before it, is left as it is, and not
    counted. Left out too are commands of sagas that were given up, and what the inbox called
    too-old, since it would again. Where one of these is named by `seqs`, BelongsToSaga or
    ForgottenByReceiver is raised, and NoSuchMessage where one is not held, before anything changes.
    Raises InvalidSelection for a bad limit.
    """
    change = _Change(database, tables or tables_in(database), now)
    at = change.held.c
    if selection.seqs is not None:
        await change.refuse_forgotten(selection)
    rows = await change.lock(
        selection,
        change.may_be_tried,
        limit,
        refused=and_(change.is_dead, at.saga.is_not(None)),
        why="was given up, which the saga was told",
    )
    if rows:
        await database.execute(
            update(change.held)
            .where(at.seq.in_([row["seq"] for row in rows]))
            .values(
                state=State.WAITING.value,
                attempts=0,
                revision=at.revision + 1,
                # Of those that are no heads `appoint` takes it away.
                next_at=change.time,
            )
        )
        await change.appoint(rows)
    return len(rows)


async def redrive_as_new(
    database: Database,
    seqs: Collection[int],
    *,
    new_id: Callable[[], str],
    now: datetime,
    fitting: Selection | None = None,
    tables: Tables | None = None,
) -> Mapping[str, str]:
    """Let messages that were given up be tried again as new ones: under new ids, and due now.
    Returns the new ids by the old ones.

    To the inbox each is another message. It takes effect also where the one under the old id did,
    so make sure that it did not. All or none: raises InvalidSelection, NoSuchMessage where one is
    not held or not given up, or is not in the selection `fitting`, and BelongsToSaga, before
    anything changes.
    """
    change = _Change(database, tables or tables_in(database), now)
    at = change.held.c
    is_given_up = at.state.in_((State.DEAD.value, State.BLOCKED.value))
    may_be = and_(is_given_up, at.message_id.is_not(None), at.saga.is_(None))
    rows = await change.lock(
        dataclasses.replace(fitting or Selection(), seqs=seqs),
        may_be,
        MAX_AT_ONCE,
        refused=at.saga.is_not(None),
        why="its saga knows it under its id",
    )
    if len(rows) < len(set(seqs)):
        missing = sorted(set(seqs) - {row["seq"] for row in rows})
        raise NoSuchMessage(
            f"not given up, or impossible to read: {_numbered(missing)}",
            next_step="redrive them under their own ids",
        )
    named: dict[str, str] = {}
    for row in (await database.execute(change.whole(rows))).mappings().all():
        old = from_structured(row["body"])
        new = replace(old, id=new_id(), due=now, expires=None, expires_in=None)
        named[old.id] = new.id
        body = to_structured(new)
        packet = Packet(row["partition"], {}, body, new.key)
        held = ToHold(row["queue"], packet, new, row["last_error"])
        await database.execute(
            update(change.held)
            .where(at.seq == row["seq"])
            .values(
                body=body,
                message_id=new.id,
                fingerprint=fingerprint(held),
                state=State.WAITING.value,
                attempts=0,
                expires_at=None,
                revision=at.revision + 1,
                next_at=change.time,
            )
        )
    await change.appoint(rows)
    return named


async def drop(
    database: Database,
    selection: Selection,
    *,
    now: datetime,
    limit: int = MAX_AT_ONCE,
    tables: Tables | None = None,
) -> int:
    """Delete these messages for good, the first held first; what waits behind them goes on. Returns
    how many; at most `limit` are, so call it until it returns 0.

    Commands of sagas that wait are left out; where one is named by `seqs`, BelongsToSaga is raised,
    and NoSuchMessage where one of those is not held, before anything changes. Raises
    InvalidSelection for a bad limit.
    """
    change = _Change(database, tables or tables_in(database), now)
    at = change.held.c
    rows = await change.lock(
        selection,
        change.may_be_dropped,
        limit,
        refused=and_(at.saga.is_not(None), not_(change.is_dead)),
        why="waits for its answer",
    )
    if rows:
        await database.execute(delete(change.held).where(at.seq.in_([row["seq"] for row in rows])))
        await change.appoint(rows)
    return len(rows)


async def count_to_redrive(
    database: Database, selection: Selection, *, now: datetime, tables: Tables | None = None
) -> int:
    """How many messages `redrive` would change, if it were called until it returned 0."""
    change = _Change(database, tables or tables_in(database), now)
    return await change.count(selection, change.may_be_tried)


async def count_to_drop(
    database: Database, selection: Selection, *, now: datetime, tables: Tables | None = None
) -> int:
    """How many messages `drop` would delete, if it were called until it returned 0."""
    change = _Change(database, tables or tables_in(database), now)
    return await change.count(selection, change.may_be_dropped)


class _Change:
    """A change of held messages, under the locks of their keys."""

    def __init__(self, database: Database, tables: Tables, now: datetime) -> None:
        self._database = database
        self._tables = tables
        self._moment = now
        self.held = tables.inbox_held

    @property
    def time(self) -> ColumnElement[datetime]:
        """The time now, as the workers have it."""
        return self._store("").time

    @property
    def is_forgotten(self) -> ColumnElement[bool]:
        """Whether the inbox cannot tell whether it took effect."""
        at = self.held.c
        return and_(at.state != State.WAITING.value, at.last_error.startswith(_TOO_OLD))

    @property
    def is_dead(self) -> ColumnElement[bool]:
        """Whether it was given up, and its key goes on."""
        return self.held.c.state == State.DEAD.value

    @property
    def may_be_tried(self) -> ColumnElement[bool]:
        """Whether there is something to be done so that it is tried at once."""
        at = self.held.c
        has_turn = and_(at.next_at.is_not(None), or_(at.next_at > self.time, at.attempts > 0))
        is_given_up = or_(and_(self.is_dead, at.saga.is_(None)), at.state == State.BLOCKED.value)
        return and_(or_(is_given_up, has_turn), not_(self.is_forgotten))

    @property
    def may_be_dropped(self) -> ColumnElement[bool]:
        """Whether no saga waits for its answer."""
        return or_(self.held.c.saga.is_(None), self.is_dead)

    async def count(self, selection: Selection, may_be: ColumnElement[bool]) -> int:
        """How many of the chosen rows may be changed; it locks none."""
        chosen = and_(_chosen(self.held.c, selection), may_be)
        counted = select(func.count()).select_from(self.held).where(chosen)
        return int((await self._database.execute(counted)).scalar_one())

    def whole(self, rows: Sequence[RowMapping]) -> Select[Any]:
        """The query for all that stands in these rows."""
        at = self.held.c
        seqs = [row["seq"] for row in rows]
        return select(self.held).where(at.seq.in_(seqs)).order_by(at.seq)

    async def refuse_forgotten(self, selection: Selection) -> None:
        """Raises ForgottenByReceiver where one of the chosen ones is."""
        at = self.held.c
        chosen = select(at.seq).where(_chosen(at, selection), self.is_forgotten).limit(1)
        seq = (await self._database.execute(chosen)).scalar()
        if seq is not None:
            raise ForgottenByReceiver(
                f"the inbox called the held message {seq} too-old: it has forgotten what it took "
                "at that time, and would say so again",
                next_step="find out whether it took effect; where it did not, let it be a new "
                "message: redrive_as_new",
            )

    async def lock(
        self,
        selection: Selection,
        may_be: ColumnElement[bool],
        limit: int,
        *,
        refused: ColumnElement[bool],
        why: str,
    ) -> Sequence[RowMapping]:
        """The chosen rows that may be changed, with the locks of their keys and their own. Those
        that are named and refused raise BelongsToSaga."""
        _check(selection, limit)
        at = self.held.c
        query = select(
            at.seq, at.consumer, at.undo_lane, at.key, at.saga, refused.label("refused")
        ).order_by(at.seq)
        chosen = query.where(_chosen(at, selection))
        first = chosen if selection.seqs is not None else chosen.where(may_be)
        rows = (await self._database.execute(first.limit(limit))).mappings().all()
        for store, keys in self._keys(rows):
            await store.lock(self._database, keys)
        # Once more, since a worker, the consumer or another operator may have changed some before
        # the locks were had.
        again = chosen.where(at.seq.in_([row["seq"] for row in rows])).with_for_update()
        if selection.seqs is not None:
            named = (await self._database.execute(again)).mappings().all()
            _check_named(selection.seqs, named, why)
        return (await self._database.execute(again.where(may_be))).mappings().all()

    async def appoint(self, rows: Sequence[RowMapping]) -> None:
        """Let the right row of each of their keys have its turn."""
        for store, keys in self._keys(rows):
            await store.appoint(self._database, keys, displaced=True)

    def _keys(self, rows: Sequence[RowMapping]) -> list[tuple[HeldStore, set[LaneKey]]]:
        found: dict[str, set[LaneKey]] = {}
        for row in rows:
            if row["key"] is not None:
                found.setdefault(row["consumer"], set()).add((row["undo_lane"], row["key"]))
        return [(self._store(consumer), keys) for consumer, keys in sorted(found.items())]

    def _store(self, consumer: str) -> HeldStore:
        match self._database:
            case AsyncSession():
                dialect = self._database.get_bind().dialect
            case AsyncConnection():
                dialect = self._database.dialect
        is_postgresql = dialect.name == "postgresql"
        return HeldStore(self._tables, consumer, postgres=is_postgresql, now=lambda: self._moment)


def _check(selection: Selection, limit: int) -> None:
    if not 0 < limit <= MAX_AT_ONCE:
        raise InvalidSelection(
            f"the limit is {limit}", next_step=f"choose one between 1 and {MAX_AT_ONCE}"
        )
    if selection.seqs is not None and not 0 < len(set(selection.seqs)) <= limit:
        raise InvalidSelection(
            f"{len(set(selection.seqs))} numbers were given",
            next_step=f"give between 1 and {limit}",
        )


def _numbered(seqs: Sequence[int]) -> str:
    """These messages for an error, the first three by their numbers."""
    first = ", ".join(map(str, seqs[:3]))
    if len(seqs) == 1:
        return f"the message {first}"
    more = f" and {len(seqs) - 3} more" if len(seqs) > 3 else ""
    return f"the messages {first}{more}"


def _check_named(seqs: Collection[int], rows: Sequence[RowMapping], why: str) -> None:
    missing = sorted(set(seqs) - {row["seq"] for row in rows})
    if missing:
        raise NoSuchMessage(
            f"not held, or not in the rest of the selection: {_numbered(missing)}",
            next_step="list the held messages; it may have been handled or dropped already",
        )
    for row in rows:
        if row["refused"]:
            raise BelongsToSaga(
                f"the held message {row['seq']} is a command of the saga {row['saga']}, and {why}",
                next_step=f"retry, skip or cancel the step of the saga {row['saga']} instead",
            )


def _chosen(at: Any, selection: Selection) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [at.seq.is_not(None)]
    for name in ("type", "key", "source", "consumer"):
        if (wanted := getattr(selection, name)) is not None:
            conditions.append(at[name] == wanted)
    if selection.state is not None:
        conditions.append(at.state == selection.state.value)
    if selection.before is not None:
        conditions.append(at.held_at < _aware(selection.before))
    if selection.seqs is not None:
        # A number that no row can have is held as little as any other that is not there.
        conditions.append(at.seq.in_(sorted({it for it in selection.seqs if 0 < it < 2**63})))
    return and_(*conditions)


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise InvalidSelection(
            f"{moment.isoformat()} has no time zone, so it is no moment",
            next_step="give the time with its zone, such as 2030-01-31T12:00:00Z",
        )
    return moment


def _message(row: RowMapping) -> HeldMessage:
    as_stored = {name: row[name] for name in _AS_STORED}
    return HeldMessage(
        **as_stored,
        id=row["message_id"],
        state=State(row["state"]),
        headers=json.loads(row["headers"]),
    )


_AS_STORED = (
    *("seq", "consumer", "queue", "partition", "undo_lane", "key", "type", "source", "saga"),
    *("attempts", "next_at", "last_error", "held_at", "body"),
)
