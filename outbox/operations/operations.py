"""The operations on one outbox, as the command line and the operator's addresses offer them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.database.pages import DEFAULT_LIMIT, Page
from outbox.dead_letters import DeadLetter
from outbox.errors import InvalidSelection
from outbox.operations import dead, scheduled
from outbox.operations import held as held_messages
from outbox.operations.held import HeldMessage
from outbox.operations.named import (
    ids_between,
    require_ids,
    require_letters_may_go,
    require_scheduled,
)
from outbox.operations.results import Changed
from outbox.operations.scheduled import ScheduledMessage
from outbox.operations.selection import MAX_AT_ONCE, Selection
from outbox.operations.tail import Happening, Tail
from outbox.tables import Tables


class Operations:
    """The operations of one service's outbox.

    Lists write nothing. What changes messages needs a selection with a filter, or the word
    `everything`; it works in transactions of up to 1,000 messages, and with `dry_run` it only
    counts. With ids it is strict: all of them are changed in one transaction, or none.
    """

    def __init__(
        self, engine: AsyncEngine, tables: Tables, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._tables = tables
        self._clock = clock
        self._new_id = new_id

    # Lists

    async def dead(
        self, selection: Selection, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[DeadLetter]:
        """Dead letters, the last buried first."""
        async with self._reading.connect() as connection:
            return await dead.list_letters(
                connection, self._tables, selection, limit=limit, cursor=cursor
            )

    async def held(
        self,
        selection: Selection,
        *,
        only_blocked: bool = False,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> tuple[Page[HeldMessage], list[int]]:
        """The first messages of keys that wait, and how many wait behind each of them."""
        async with self._reading.connect() as connection:
            page = await held_messages.list_held(
                connection,
                self._tables,
                selection,
                only_blocked=only_blocked,
                limit=limit,
                cursor=cursor,
            )
            behind = [
                await held_messages.count_behind(connection, self._tables, each)
                for each in page.items
            ]
        return page, behind

    async def scheduled(
        self, selection: Selection, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[ScheduledMessage]:
        """Scheduled messages, the first due first."""
        async with self._reading.connect() as connection:
            return await scheduled.list_scheduled(
                connection, self._tables, selection, limit=limit, cursor=cursor
            )

    async def ids_between(
        self, first: str, last: str, *, scheduled_ones: bool = False, most: int
    ) -> Mapping[str, str]:
        """Up to `most` ids from the first to the last, of dead letters and of messages that hold
        their keys, or of scheduled ones; each with its destination."""
        async with self._reading.connect() as connection:
            return await ids_between(
                connection, self._tables, first, last, scheduled=scheduled_ones, most=most
            )

    async def tail(self, tail: Tail) -> Sequence[Happening]:
        """What happened since its last look."""
        async with self._reading.connect() as connection:
            return await tail.look(connection, self._clock.now())

    def new_tail(self, selection: Selection) -> Tail:
        """A comparison of looks at the messages that fit."""
        return Tail(self._tables, selection)

    # Changes

    async def redrive(
        self,
        selection: Selection,
        *,
        as_new: bool = False,
        dry_run: bool = False,
        everything: bool = False,
    ) -> Changed:
        """Send dead letters again, and free the keys that such messages block; by its id also one
        whose key rests. Commands of sagas stay, and what is too-old unless `as_new`, which gives
        new ids, and leaves held messages as they are.

        Raises InvalidSelection; and with ids NoSuchMessage, BelongsToSaga, ForgottenByReceiver.
        """
        _require_filter(selection, everything)
        found = await self._counted(selection, as_new=as_new)
        if as_new:
            found = replace(found, held_messages=0)

        async def require(connection: AsyncConnection, *, lock: bool) -> None:
            await require_letters_may_go(connection, self._tables, selection, as_new=as_new)
            await require_ids(connection, self._tables, selection, held=not as_new, lock=lock)

        if dry_run:
            async with self._reading.connect() as connection:
                await require(connection, lock=False)
            return found
        new_ids: dict[str, str] = {}

        async def step(connection: AsyncConnection) -> tuple[int, int]:
            await require(connection, lock=True)
            now, tables = self._clock.now(), self._tables
            if as_new:
                letters = await dead.redrive_some_as_new(
                    connection, tables, selection, renamed=new_ids, new_id=self._new_id, now=now
                )
                return letters, 0
            # First, since a letter may have held the key that waits here still.
            freed = await held_messages.free_some(connection, tables, selection, now=now)
            return await dead.redrive_some(connection, tables, selection), freed

        letters, freed = await self._in_steps(selection, found, step)
        return replace(
            found, is_dry_run=False, dead_letters=letters, held_messages=freed, new_ids=new_ids
        )

    async def drop(
        self,
        selection: Selection,
        *,
        buried_by: str | None = None,
        dry_run: bool = False,
        everything: bool = False,
    ) -> Changed:
        """Delete dead letters for good, and messages that block their keys, whose later messages go
        on; by its id also one whose key rests, unless it is the command of a saga, which waits for
        its answer. With `buried_by`, the name of the operator, dead letters stay, and held messages
        become some.

        Raises InvalidSelection; and with ids NoSuchMessage, BelongsToSaga.
        """
        _require_filter(selection, everything)
        found = await self._counted(selection, as_new=True)
        letters = 0 if buried_by is not None else found.dead_letters + found.of_sagas
        found = replace(found, dead_letters=letters, of_sagas=0)

        async def require(connection: AsyncConnection, *, lock: bool) -> None:
            tables, letters = self._tables, buried_by is None
            await require_ids(connection, tables, selection, letters=letters, lock=lock)
            await held_messages.require_may_be_dropped(connection, tables, selection)

        if dry_run:
            async with self._reading.connect() as connection:
                await require(connection, lock=False)
            return found

        async def step(connection: AsyncConnection) -> tuple[int, int]:
            await require(connection, lock=True)
            gone = 0
            if buried_by is None:
                gone = await dead.drop_some(connection, self._tables, selection)
            return gone, await held_messages.drop_some(
                connection, self._tables, selection, now=self._clock.now(), buried_by=buried_by
            )

        letters, dropped = await self._in_steps(selection, found, step)
        return replace(found, is_dry_run=False, dead_letters=letters, held_messages=dropped)

    async def purge(self, selection: Selection, *, dry_run: bool = False) -> Changed:
        """Delete dead letters for good that were buried before `selection.older_than`. Raises
        InvalidSelection without that."""
        if selection.older_than is None:
            raise InvalidSelection(
                "no age was given, and everything would be deleted",
                next_step="say how old a dead letter must be, such as 30d",
            )
        async with self._reading.connect() as connection:
            counted = await dead.count(connection, self._tables, selection)
        total = counted.of_sagas + counted.too_old + counted.others
        found = Changed(dry_run, dead_letters=total)
        if dry_run:
            return found

        async def step(connection: AsyncConnection) -> tuple[int, int]:
            return await dead.drop_some(connection, self._tables, selection), 0

        gone, _ = await self._in_steps(selection, found, step)
        return replace(found, dead_letters=gone)

    async def reschedule(
        self,
        selection: Selection,
        due: datetime,
        *,
        dry_run: bool = False,
        everything: bool = False,
    ) -> Changed:
        """Let scheduled messages leave at that moment (aware). Raises InvalidSelection; and with
        ids NoSuchMessage."""
        if due.tzinfo is None:
            raise InvalidSelection(
                f"{due.isoformat()} has no time zone, so it is no moment",
                next_step="give the time with its zone, such as 2030-01-31T12:00:00Z",
            )
        return await self._with_scheduled(
            selection,
            lambda connection: scheduled.move_some(connection, self._tables, selection, due),
            but=due,
            dry_run=dry_run,
            everything=everything,
        )

    async def drop_scheduled(
        self, selection: Selection, *, dry_run: bool = False, everything: bool = False
    ) -> Changed:
        """Delete scheduled messages for good. Raises InvalidSelection; and with ids
        NoSuchMessage."""
        return await self._with_scheduled(
            selection,
            lambda connection: scheduled.drop_some(connection, self._tables, selection),
            dry_run=dry_run,
            everything=everything,
        )

    async def _with_scheduled(
        self,
        selection: Selection,
        work: Callable[[AsyncConnection], Awaitable[int]],
        *,
        but: datetime | None = None,
        dry_run: bool,
        everything: bool,
    ) -> Changed:
        _require_filter(selection, everything)
        async with self._reading.connect() as connection:
            await require_scheduled(connection, self._tables, selection, lock=False)
            total = await scheduled.count(connection, self._tables, selection, but=but)
        found = Changed(dry_run, scheduled=total)
        if dry_run:
            return found

        async def step(connection: AsyncConnection) -> tuple[int, int]:
            await require_scheduled(connection, self._tables, selection, lock=True)
            return await work(connection), 0

        changed, _ = await self._in_steps(selection, found, step)
        return replace(found, scheduled=changed)

    # Steps

    async def _in_steps(
        self,
        selection: Selection,
        found: Changed,
        step: Callable[[AsyncConnection], Awaitable[tuple[int, int]]],
    ) -> tuple[int, int]:
        """The sums of what the steps did, each in a transaction of its own: one step with ids, and
        else no more than what was found needs, since what was sent again may fail again
        meanwhile."""
        first = second = 0
        most = max(found.dead_letters, found.held_messages, found.scheduled)
        for _ in range(1 if selection.ids else most // MAX_AT_ONCE + 1):
            async with self._engine.begin() as connection:
                one, other = await step(connection)
            first, second = first + one, second + other
            if max(one, other) < MAX_AT_ONCE:
                break
        return first, second

    async def _counted(self, selection: Selection, *, as_new: bool) -> Changed:
        async with self._reading.connect() as connection:
            counted = await dead.count(connection, self._tables, selection)
            blocked = await held_messages.count_held(connection, self._tables, selection)
        return Changed(
            True,
            dead_letters=counted.others + (counted.too_old if as_new else 0),
            held_messages=blocked,
            of_sagas=counted.of_sagas,
            too_old=0 if as_new else counted.too_old,
        )


def _require_filter(selection: Selection, everything: bool) -> None:
    if selection.is_everything and not everything:
        raise InvalidSelection(
            "no filter was given, and every message would be changed",
            next_step="say which: by ids, destination, type, key or age; or say all (--all)",
        )
    if everything and not selection.is_everything:
        raise InvalidSelection(
            "filters were given, and all as well", next_step="give the one or the other"
        )
