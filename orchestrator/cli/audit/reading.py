"""The SQL of the audit: the tables that services declare, and the messages and sagas under way.

Read-only, in short transactions of one statement each, and in chunks: an audit beside the traffic
holds nothing up, and its memory does not grow with the databases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, assert_never

from sqlalchemy import (
    Column,
    ColumnElement,
    Row,
    Select,
    SQLColumnExpression,
    Table,
    case,
    func,
    literal,
    null,
    select,
)

from orchestrator.cli.audit import divergences as found
from orchestrator.cli.audit.columns import as_key, as_values, column_of
from orchestrator.cli.audit.databases import ORCHESTRATOR, Databases, Source
from orchestrator.cli.audit.rules import Subject
from outbox.ids import is_id
from outbox.invariants import Holds, Mirrors, Refers, Rule
from outbox.transports.brokers.held.rows import State

CHUNK = 500
"""How many entities are looked at together."""
COUNTED = 1000
"""How many resting messages are counted; beyond that there are "at least" so many."""


async def require_tables(databases: Databases, subjects: Iterable[Subject]) -> None:
    """Raises CommandError where a database lacks a table that the audit may read, also later on."""
    for subject in subjects:
        for service, query in (
            (subject.keeper, _kept(subject, [])),
            *((it.service, _of_rule(it.rule, [])) for it in subject.rules),
        ):
            await databases.services[service].rows(query.limit(0))
    for source in databases.all:
        tables, messaging = source.tables, source.tables.messaging
        places = [messaging.outbox, messaging.outbox_parked, messaging.outbox_scheduled]
        places += [messaging.inbox_held]
        if source.name == ORCHESTRATOR:
            places += [tables.saga, tables.saga_alias, tables.saga_signal]
        for place in places:
            await source.rows(select(literal(1)).select_from(place).limit(0))


async def everything(databases: Databases, subject: Subject) -> AsyncIterator[Sequence[str]]:
    """The ids of all entities of that kind in any service's rows, in chunks, each once."""
    places = [(subject.keeper, subject.keeps.id)]
    places += [(it.service, it.rule.id) for it in subject.rules]
    read: list[tuple[str, SQLColumnExpression[Any]]] = []
    for service, place in places:
        if (service, column_of(place)) in [(it[0], column_of(it[1])) for it in read]:
            continue
        async for chunk in _pages(databases.services[service], place):
            rest = set(chunk)
            for other, earlier in read:
                rest -= await _known(databases.services[other], earlier, rest)
            if rest:
                yield sorted(rest)
        read.append((service, place))


async def read_facts(
    databases: Databases, subject: Subject, ids: Sequence[str]
) -> list[found.Facts]:
    """The facts about these entities, in the order of `ids`."""
    keeper = databases.services[subject.keeper]
    kept = {
        as_key(row.id): found.Kept(bool(row.gone), row.version)
        for row in await keeper.rows(_kept(subject, as_values(subject.keeps.id, ids)))
    }
    read: list[Mapping[str, list[found.Row]]] = []
    for declared in subject.rules:
        of_rule: dict[str, list[found.Row]] = defaultdict(list)
        values = as_values(declared.rule.id, ids)
        for row in await databases.services[declared.service].rows(_of_rule(declared.rule, values)):
            trace = None if row.saga is None else as_key(row.saga)
            of_rule[as_key(row.id)].append(
                found.Row(row.number, trace, row.version, bool(row.is_fit))
            )
        read.append(of_rule)
    return [found.Facts(it, kept.get(it), [rows.get(it, []) for rows in read]) for it in ids]


async def at_work(databases: Databases, facts: Sequence[found.Facts]) -> frozenset[str]:
    """The entities that a live saga, or one whose start is under way, is at work on."""
    if databases.orchestrator is None:
        return frozenset()
    orchestrator = databases.orchestrator
    saga, saga_alias = orchestrator.tables.saga, orchestrator.tables.saga_alias
    ids = [it.id for it in facts]
    traces = sorted({saga_id for it in facts for saga_id in it.sagas if is_id(saga_id)})
    # In the order in which a start travels, so that it is seen wherever it is.
    begun = await _starts(databases, orchestrator, traces)
    aliases = {
        row.id: row.saga_id
        for row in await _found(orchestrator, saga_alias, saga_alias.c.id, traces)
    }
    reached = sorted({*traces, *(it for it in aliases.values() if it is not None)})
    is_live = saga.c.ended_at.is_(None)
    live = {row.id for row in await _found(orchestrator, saga, saga.c.id, reached, is_live)}
    keys = {row.key for row in await _found(orchestrator, saga, saga.c.key, ids, is_live)}
    working = begun | live | {it for it, target in aliases.items() if target in live}
    return frozenset(it.id for it in facts if it.id in keys or it.sagas & working)


async def marks(databases: Databases) -> Mapping[str, Mapping[str, int]]:
    """The number of the last message that waits, for each database and each of its queues."""
    last: dict[str, dict[str, int]] = {}
    for source in databases.all:
        last[source.name] = {}
        for queue, waits in _queues(source).items():
            query = select(func.max(queue.c.seq).label("last")).where(*waits)
            (row,) = await source.rows(query)
            last[source.name][queue.name] = row.last or 0
    return last


async def resting(
    databases: Databases, marked: Mapping[str, Mapping[str, int]]
) -> Mapping[str, int]:
    """How many messages up to those marks still wait, by database; only where some do. No more
    than COUNTED are counted in one queue.

    What a receiver holds counts without a mark: it may have been in an outbox when that was marked.
    """
    rest: dict[str, int] = {}
    for source in databases.all:
        tables, messaging = source.tables, source.tables.messaging
        # A message keeps its number when it is parked, and when it comes back.
        messages = (messaging.outbox, messaging.outbox_parked)
        of_messages = max(marked[source.name][it.name] for it in messages)
        for queue, waits in _queues(source).items():
            is_signal = queue is tables.saga_signal
            mark = marked[source.name][queue.name] if is_signal else of_messages
            is_marked = () if queue is messaging.inbox_held else (queue.c.seq <= mark,)
            some = select(queue.c.seq).where(*is_marked, *waits).limit(COUNTED).subquery()
            number = select(func.count().label("number")).select_from(some)
            (row,) = await source.rows(number)
            if row.number:
                rest[source.name] = rest.get(source.name, 0) + row.number
    return rest


def _kept(subject: Subject, values: Sequence[Any]) -> Select[Any]:
    keeps = subject.keeps
    gone = literal(0) if keeps.gone is None else case((keeps.gone, 1), else_=0)
    version = null() if keeps.version is None else keeps.version
    query = select(keeps.id.label("id"), gone.label("gone"), version.label("version"))
    return query.where(keeps.id.in_(values))


def _of_rule(rule: Rule, values: Sequence[Any]) -> Select[Any]:
    """The rows of these entities as the rule sees them, one for each entity and saga."""
    version: SQLColumnExpression[Any] = null()
    is_fit: SQLColumnExpression[Any] = literal(1)
    where: list[SQLColumnExpression[bool]] = [rule.id.in_(values)]
    trace: SQLColumnExpression[Any] | None = None
    match rule:
        case Refers():
            trace = rule.by
        case Mirrors():
            if rule.version is not None:
                version = func.max(rule.version)
            if rule.fit is not None:
                is_fit = func.min(case((rule.fit, 1), else_=0))
        case Holds():
            trace = rule.saga
            where.append(rule.saga.is_not(None))
        case _:
            assert_never(rule)
    if rule.where is not None:
        where.append(rule.where)
    grouped = [rule.id] if trace is None else [rule.id, trace]
    columns: list[SQLColumnExpression[Any]] = [
        rule.id.label("id"),
        (null() if trace is None else trace).label("saga"),
        version.label("version"),
        is_fit.label("is_fit"),
        func.count().label("number"),
    ]
    return select(*columns).where(*where).group_by(*grouped)


def _queues(source: Source) -> Mapping[Table, Sequence[ColumnElement[bool]]]:
    """Where messages wait in the database of this service, and which rows do."""
    messaging, saga_signal = source.tables.messaging, source.tables.saga_signal
    queues: dict[Table, Sequence[ColumnElement[bool]]] = {
        messaging.outbox: (),
        messaging.outbox_parked: (),
        messaging.inbox_held: (_is_held_live(messaging.inbox_held),),
    }
    if source.name == ORCHESTRATOR:
        # One with an answer is applied, and only kept for the node that asked.
        queues[saga_signal] = (saga_signal.c.answer.is_(None),)
    return queues


def _is_held_live(held: Table) -> ColumnElement[bool]:
    return held.c.state.in_((State.WAITING.value, State.BLOCKED.value))


async def _starts(
    databases: Databases, orchestrator: Source, saga_ids: Collection[str]
) -> set[str]:
    """The sagas whose start is on its way, or waits to be applied."""
    begun: set[str] = set()
    # As messages move between them, the last two to and fro.
    for name in ("outbox_scheduled", "outbox", "outbox_parked", "outbox"):
        for source in databases.services.values():
            queue: Table = getattr(source.tables.messaging, name)
            begun.update(row.id for row in await _found(source, queue, queue.c.id, saga_ids))
    # A start that came over a broker has the id of its message.
    held = orchestrator.tables.messaging.inbox_held
    is_live = _is_held_live(held)
    rows = await _found(orchestrator, held, held.c.message_id, saga_ids, is_live)
    begun.update(row.message_id for row in rows)
    saga_signal = orchestrator.tables.saga_signal
    kind = saga_signal.c.kind == "start"
    signals = await _found(orchestrator, saga_signal, saga_signal.c.saga_id, saga_ids, kind)
    return begun | {row.saga_id for row in signals}


async def _found(
    source: Source,
    place: Table,
    by: Column[Any],
    values: Collection[str],
    *conditions: ColumnElement[bool],
) -> Sequence[Row[Any]]:
    """The rows whose `by` is one of the values, with that and with `saga_id`, if they have one."""
    wanted = dict.fromkeys(it for it in (by, place.c.get("saga_id")) if it is not None)
    rows: list[Row[Any]] = []
    for some in chunks(sorted(values), CHUNK):
        rows += await source.rows(select(*wanted).where(by.in_(some), *conditions))
    return rows


async def _known(source: Source, place: SQLColumnExpression[Any], ids: Collection[str]) -> set[str]:
    """The ids that have a row there."""
    values = as_values(place, ids)
    if not values:
        return set()
    rows = await source.rows(select(place).where(place.in_(values)).distinct())
    return {as_key(row[0]) for row in rows}


async def _pages(source: Source, place: SQLColumnExpression[Any]) -> AsyncIterator[Sequence[str]]:
    query = select(place).where(place.is_not(None)).distinct()
    last: Any = None
    while True:
        rest = query if last is None else query.where(place > last)
        rows = await source.rows(rest.order_by(place).limit(CHUNK))
        if rows:
            yield [as_key(row[0]) for row in rows]
            last = rows[-1][0]
        if len(rows) < CHUNK:
            return


def chunks(ids: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """The ids in chunks of so many."""
    for first in range(0, len(ids), size):
        yield ids[first : first + size]
