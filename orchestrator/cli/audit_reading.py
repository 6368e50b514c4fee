"""What the audit reads: the databases of articles, comments and the orchestrator, by their columns.

Read-only, in short transactions of one statement each, and in chunks: an audit beside the traffic
holds nothing up, and its memory does not grow with the databases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    Table,
    Uuid,
    column,
    func,
    literal,
    select,
    table,
)

from orchestrator.cli.audit_databases import NAMES, Databases, Source
from orchestrator.cli.divergences import Article, Facts, Thread
from orchestrator.tables import saga, saga_alias, saga_signal
from outbox.tables import UtcDateTime, outbox, outbox_parked, outbox_scheduled

CHUNK = 500
"""How many articles are looked at together."""
COUNTED = 1000
"""How many resting messages are counted; beyond that there are "at least" so many."""


def _id(name: str) -> Any:
    return column(name, Uuid(as_uuid=False))


# The services' own tables, as far as they are read: this package imports no service.
_articles = table(
    "articles",
    _id("id"),
    column("version", Integer),
    _id("hidden_by"),
    _id("deletion_saga"),
    column("deleted_at", UtcDateTime),
)
_threads = table(
    "threads",
    _id("article_id"),
    column("version", Integer),
    column("known", String),
    _id("closed_by"),
    column("purged_at", UtcDateTime),
)
_comments = table("comments", _id("id"), _id("article_id"), _id("archived_by"))


async def require_tables(databases: Databases) -> None:
    """Raises CommandError where a database has not the tables that are read: what is read later
    depends on what is found."""
    for source, places in (
        (databases.articles, (_articles, outbox, outbox_parked, outbox_scheduled)),
        (databases.comments, (_threads, _comments, outbox, outbox_parked)),
        (databases.orchestrator, (saga, saga_alias, saga_signal, outbox, outbox_parked)),
    ):
        for place in places:
            await source.rows(select(literal(1)).select_from(place).limit(0))


async def article_ids(databases: Databases) -> AsyncIterator[Sequence[str]]:
    """All articles that articles has, tombstones too, in chunks."""
    async for chunk in _pages(databases.articles, _articles.c.id, select(_articles.c.id)):
        yield chunk


async def thread_ids(databases: Databases) -> AsyncIterator[Sequence[str]]:
    """The articles of all threads that comments has, in chunks."""
    place = _threads.c.article_id
    async for chunk in _pages(databases.comments, place, select(place)):
        yield chunk


async def commented_ids(databases: Databases) -> AsyncIterator[Sequence[str]]:
    """The articles that have comments, in chunks."""
    place = _comments.c.article_id
    async for chunk in _pages(databases.comments, place, select(place).distinct()):
        yield chunk


async def without_article(databases: Databases, ids: Collection[str]) -> list[str]:
    """Those of them that articles does not know."""
    known = await databases.articles.rows(select(_articles.c.id).where(_articles.c.id.in_(ids)))
    return sorted(set(ids) - {row.id for row in known})


async def without_thread(databases: Databases, ids: Collection[str]) -> list[str]:
    """Those of them for which comments has no thread."""
    place = _threads.c.article_id
    known = await databases.comments.rows(select(place).where(place.in_(ids)))
    return sorted(set(ids) - {row.article_id for row in known})


async def read_facts(databases: Databases, ids: Sequence[str]) -> list[Facts]:
    """What is known of these articles, in the order of `ids`."""
    articles = {
        row.id: Article(row.version, row.hidden_by, row.deletion_saga, row.deleted_at is not None)
        for row in await databases.articles.rows(select(_articles).where(_articles.c.id.in_(ids)))
    }
    threads = {
        row.article_id: Thread(row.version, row.known, row.closed_by, row.purged_at is not None)
        for row in await databases.comments.rows(
            select(_threads).where(_threads.c.article_id.in_(ids))
        )
    }
    grouped = (_comments.c.article_id, _comments.c.archived_by)
    counted = select(*grouped, func.count().label("number"))
    counts: dict[str, dict[str | None, int]] = defaultdict(dict)
    for row in await databases.comments.rows(
        counted.where(_comments.c.article_id.in_(ids)).group_by(*grouped)
    ):
        counts[row.article_id][row.archived_by] = row.number
    return [Facts(it, articles.get(it), threads.get(it), counts.get(it, {})) for it in ids]


async def at_work(databases: Databases, facts: Sequence[Facts]) -> frozenset[str]:
    """Those of the articles that a saga is at work on: one that has not ended, or that was asked
    for and has not begun."""
    ids = [it.article_id for it in facts]
    traces = sorted({saga_id for it in facts for saga_id in it.sagas})
    # In the order in which a start travels, so that it is seen wherever it is.
    begun = await _starts(databases, traces)
    aliases = {
        row.id: row.saga_id
        for row in await _found(databases.orchestrator, saga_alias, saga_alias.c.id, traces)
    }
    reached = sorted({*traces, *(it for it in aliases.values() if it is not None)})
    is_live = saga.c.ended_at.is_(None)
    live = {
        row.id for row in await _found(databases.orchestrator, saga, saga.c.id, reached, is_live)
    }
    keys = {row.key for row in await _found(databases.orchestrator, saga, saga.c.key, ids, is_live)}
    working = begun | live | {it for it, target in aliases.items() if target in live}
    return frozenset(it.article_id for it in facts if it.article_id in keys or it.sagas & working)


async def marks(databases: Databases) -> Mapping[str, Mapping[str, int]]:
    """The number of the last message that waits, for each database and each of its queues."""
    found: dict[str, dict[str, int]] = {}
    for name in NAMES:
        found[name] = {}
        for queue, waits in _queues(name).items():
            last = select(func.max(queue.c.seq).label("last")).where(*waits)
            (row,) = await _source(databases, name).rows(last)
            found[name][queue.name] = row.last or 0
    return found


async def resting(
    databases: Databases, marked: Mapping[str, Mapping[str, int]]
) -> Mapping[str, int]:
    """How many messages up to those marks still wait, by database; only where some do. No more
    than COUNTED are counted in one queue."""
    found: dict[str, int] = {}
    for name in NAMES:
        # A message keeps its number when it is parked, and when it comes back.
        of_messages = max(marked[name][outbox.name], marked[name][outbox_parked.name])
        for queue, waits in _queues(name).items():
            mark = marked[name][queue.name] if queue is saga_signal else of_messages
            some = select(queue.c.seq).where(queue.c.seq <= mark, *waits).limit(COUNTED).subquery()
            number = select(func.count().label("number")).select_from(some)
            (row,) = await _source(databases, name).rows(number)
            if row.number:
                found[name] = found.get(name, 0) + row.number
    return found


def _source(databases: Databases, name: str) -> Source:
    source: Source = getattr(databases, name)
    return source


def _queues(name: str) -> Mapping[Table, Sequence[ColumnElement[bool]]]:
    """Where messages wait in the database of this service, and which rows do."""
    queues: dict[Table, Sequence[ColumnElement[bool]]] = {outbox: (), outbox_parked: ()}
    if name == "orchestrator":
        # One with an answer is applied, and only kept for whoever asks for the answer.
        queues[saga_signal] = (saga_signal.c.answer.is_(None),)
    return queues


async def _starts(databases: Databases, saga_ids: Collection[str]) -> set[str]:
    """Those of the sagas whose start is on its way, or waits to be applied."""
    if not saga_ids:
        return set()
    found: set[str] = set()
    # As messages move between them, the last two to and fro.
    for queue in (outbox_scheduled, outbox, outbox_parked, outbox):
        found.update(
            row.id for row in await _found(databases.articles, queue, queue.c.id, saga_ids)
        )
    kind = saga_signal.c.kind == "start"
    signals = await _found(
        databases.orchestrator, saga_signal, saga_signal.c.saga_id, saga_ids, kind
    )
    return found | {row.saga_id for row in signals}


async def _found(
    source: Source,
    place: Table,
    by: Column[Any],
    values: Collection[str],
    *conditions: ColumnElement[bool],
) -> Sequence[Row[Any]]:
    """The rows whose `by` is one of the values, with that and with `saga_id`, if they have one."""
    if not values:
        return []
    wanted = dict.fromkeys(it for it in (by, place.c.get("saga_id")) if it is not None)
    return await source.rows(select(*wanted).where(by.in_(values), *conditions))


async def _pages(
    source: Source, place: ColumnElement[str], query: Select[Any]
) -> AsyncIterator[Sequence[str]]:
    last: str | None = None
    while True:
        rest = query if last is None else query.where(place > last)
        rows = await source.rows(rest.order_by(place).limit(CHUNK))
        if rows:
            yield [row[0] for row in rows]
            last = rows[-1][0]
        if len(rows) < CHUNK:
            return
