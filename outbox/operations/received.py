"""The operations on what a service received by a broker and could not handle yet."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import Clock
from outbox.database.engines import reading, seeing_all
from outbox.database.pages import DEFAULT_LIMIT, Page
from outbox.errors import InvalidSelection, NoSuchMessage
from outbox.operations.results import as_json
from outbox.tables import Tables
from outbox.transports.brokers.held import operators
from outbox.transports.brokers.held.operators import HeldMessage, Selection

_MOST_STEPS = 1000


@dataclass(frozen=True)
class ReceivedChanged:
    """How many received messages were changed, or with `is_dry_run` would be; `new_ids` has the new
    ids by the old ones."""

    is_dry_run: bool
    messages: int
    new_ids: dict[str, str] = field(default_factory=dict)


class ReceivedOperations:
    """The operations of one service. The list writes nothing. What changes messages needs a
    selection with a filter, or the word `everything`, and works in transactions of up to 1,000
    messages; with `dry_run` it only counts."""

    def __init__(
        self, engine: AsyncEngine, tables: Tables, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._engine = seeing_all(engine)
        self._reading = reading(engine)
        self._tables = tables
        self._clock = clock
        self._new_id = new_id

    async def list(
        self, selection: Selection, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[HeldMessage]:
        """The messages, the first held first. Raises InvalidSelection for a bad limit or cursor."""
        async with self._reading.connect() as connection:
            return await operators.list_held(
                connection, selection, limit=limit, cursor=cursor, tables=self._tables
            )

    async def one(self, seq: int) -> HeldMessage:
        """The message of that number. Raises NoSuchMessage where it is not held."""
        page = await self.list(Selection(seqs=[seq]))
        if not page.items:
            raise NoSuchMessage(
                f"the message {seq} is not held",
                next_step="look for its number with sagabox outbox received list",
            )
        return page.items[0]

    async def redrive(
        self,
        selection: Selection,
        *,
        as_new: bool = False,
        dry_run: bool = False,
        everything: bool = False,
    ) -> ReceivedChanged:
        """Let them be tried again at once, as `held.operators.redrive` says; with `as_new` those
        that are named by their numbers, under new ids. Raises InvalidSelection; and with numbers
        NoSuchMessage, BelongsToSaga, ForgottenByReceiver."""
        _require_filter(selection, everything)
        if dry_run and selection.seqs is None and not as_new:
            return await self._counted(operators.count_to_redrive, selection)
        new_ids: dict[str, str] = {}
        if as_new and selection.seqs is None:
            raise InvalidSelection(
                "what is sent as new may take effect twice, so it is not chosen by filters",
                next_step="give the numbers of the messages, as the list shows them",
            )

        async def step(connection: AsyncConnection) -> int:
            now, tables = self._clock.now(), self._tables
            if not as_new:
                return await operators.redrive(connection, selection, now=now, tables=tables)
            found = await operators.redrive_as_new(
                connection,
                selection.seqs or (),
                new_id=self._new_id,
                now=now,
                fitting=selection,
                tables=tables,
            )
            new_ids.update(found)
            return len(found)

        count = await self._in_steps(step, dry_run, once=selection.seqs is not None)
        return ReceivedChanged(dry_run, count, {} if dry_run else new_ids)

    async def drop(
        self, selection: Selection, *, dry_run: bool = False, everything: bool = False
    ) -> ReceivedChanged:
        """Delete them for good, as `held.operators.drop` says. Raises InvalidSelection; and with
        numbers NoSuchMessage and BelongsToSaga."""
        _require_filter(selection, everything)
        if dry_run and selection.seqs is None:
            return await self._counted(operators.count_to_drop, selection)

        async def step(connection: AsyncConnection) -> int:
            return await operators.drop(
                connection, selection, now=self._clock.now(), tables=self._tables
            )

        count = await self._in_steps(step, dry_run, once=selection.seqs is not None)
        return ReceivedChanged(dry_run, count)

    async def _counted(
        self, count: Callable[..., Awaitable[int]], selection: Selection
    ) -> ReceivedChanged:
        async with self._reading.connect() as connection:
            now = self._clock.now()
            found = await count(connection, selection, now=now, tables=self._tables)
        return ReceivedChanged(True, found)

    async def _in_steps(
        self, step: Callable[[AsyncConnection], Awaitable[int]], dry_run: bool, *, once: bool
    ) -> int:
        total = 0
        for _ in range(_MOST_STEPS):
            async with self._engine.connect() as connection:
                done = await step(connection)
                if dry_run:
                    await connection.rollback()
                else:
                    await connection.commit()
            total += done
            if dry_run or once or done < operators.MAX_AT_ONCE:
                break
        return total


def message_as_json(message: HeldMessage) -> dict[str, object]:
    """The message for programs, without its content."""
    return {name: it for name, it in as_json(message).items() if name not in ("body", "headers")}


def content_as_json(message: HeldMessage) -> dict[str, object]:
    """Its headers and its body for programs: a text, or in Base64 what is none."""
    try:
        body: dict[str, object] = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"body": None, "body_base64": b64encode(message.body).decode()}
    return {"headers": dict(message.headers), **body}


def whole_as_json(message: HeldMessage) -> dict[str, object]:
    """The message for programs, with its content."""
    return {**message_as_json(message), **content_as_json(message)}


def _require_filter(selection: Selection, everything: bool) -> None:
    is_everything = all(getattr(selection, it.name) is None for it in fields(selection))
    if is_everything and not everything:
        raise InvalidSelection(
            "no filter was given, and every message would be changed",
            next_step="say which: by numbers, type, key, source or state; or say all (--all)",
        )
    if everything and not is_everything:
        raise InvalidSelection(
            "filters were given, and all as well", next_step="give the one or the other"
        )
