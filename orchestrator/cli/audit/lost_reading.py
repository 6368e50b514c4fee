"""The SQL that compares the runs of an orchestrator with the inboxes of its participants.

Read-only, in short transactions and in chunks, as in `reading`. The order of the reads makes a
second look needless: a run stands in its table before any of its commands leaves, and a command has
its row before the run can count it as done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, select

from orchestrator.cli.audit.databases import ORCHESTRATOR, Databases, Source
from orchestrator.cli.audit.lost import Ended, Lost, Received, contradicted, unheard, wanted
from orchestrator.cli.audit.reading import CHUNK, COUNTED, chunks
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.machine.transition import Happening
from orchestrator.store.records import standing_of
from outbox.inbox.rows import State
from outbox.inbox.transactions.store import SAGA
from outbox.wire.settled import EndedSagas

MAX_LOST = 10_000
"""How many contradictions are remembered, at most."""


@dataclass(frozen=True)
class RunFindings:
    """What came of comparing runs with inboxes. `runs` and `rows` were compared, so many of the
    runs `without_history`, of which less is seen. `come_again` counts, by database, messages that
    wait although their receiver has them already. `is_cut` says that there are more contradictions
    than are remembered."""

    runs: int
    rows: int
    lost: Sequence[Lost]
    come_again: Mapping[str, int]
    is_cut: bool = False
    without_history: int = 0


@dataclass
class _Found:
    runs: int = 0
    rows: int = 0
    without_history: int = 0
    lost: list[Lost] = field(default_factory=list)


async def compare_runs(databases: Databases, since: datetime | None) -> RunFindings:
    """Compare the runs that have ended, and began since then, with what the inboxes know of them.

    Raises CommandError where a database fails, or is that of another service. There must be an
    orchestrator.
    """
    orchestrator = databases.orchestrator
    assert orchestrator is not None, "the command asks for one"
    for source in databases.services.values():
        await _require_its_own(source)
    found = _Found()
    async for runs in _ended(orchestrator, since):
        found.runs += len(runs)
        found.without_history += sum(run.lacks_owners for run, _ in runs)
        found.lost += await _contradicted(databases, runs)
    name = await _name_of(orchestrator)
    for source in databases.services.values():
        found.lost += await _unheard(source, orchestrator, name, since, found)
    lost = sorted(set(found.lost), key=lambda it: it.place)
    return RunFindings(
        found.runs,
        found.rows,
        lost[:MAX_LOST],
        await _come_again(databases, name),
        is_cut=len(lost) > MAX_LOST,
        without_history=found.without_history,
    )


async def _require_its_own(source: Source) -> None:
    """Under a wrong name nothing of its inbox would be found, and nothing lost be told."""
    owner = source.tables.messaging.outbox_service
    for row in await source.rows(select(owner.c.name).where(owner.c.name != source.name)):
        raise CommandError(
            f"the database of {source.name} is that of the service {row.name}",
            "its tables say so",
            f"--service {row.name}=URL, or the address of the database of {source.name}",
        )


# From the runs to the inboxes


async def _ended(
    orchestrator: Source, since: datetime | None, ids: Sequence[str] | None = None
) -> AsyncIterator[Sequence[tuple[Ended, str]]]:
    """The runs that have ended, in chunks, each with its number: all of them, or these."""
    saga = orchestrator.tables.saga
    columns = (saga.c.id, saga.c.name, saga.c.key, saga.c.document, saga.c.number)
    query = select(*columns).where(saga.c.ended_at.is_not(None))
    if since is not None:
        query = query.where(saga.c.created_at >= since)
    if ids is not None:
        query = query.where(saga.c.id.in_(ids))
    last: str | None = None
    while True:
        page = query if last is None else query.where(saga.c.id > last)
        rows = await orchestrator.rows(page.order_by(saga.c.id).limit(CHUNK))
        if rows:
            yield await _read(orchestrator, rows)
            last = rows[-1].id
        if len(rows) < CHUNK:
            return


async def _read(orchestrator: Source, rows: Sequence[Row[Any]]) -> Sequence[tuple[Ended, str]]:
    saga_history = orchestrator.tables.saga_history
    sent = await orchestrator.rows(
        select(saga_history.c.saga_id, saga_history.c.command_id, saga_history.c.detail).where(
            saga_history.c.saga_id.in_([row.id for row in rows]),
            saga_history.c.happening == Happening.SENT.value,
            saga_history.c.command_id.is_not(None),
        )
    )
    owners: dict[str, dict[str, str]] = {}
    for line in sent:
        # The line of a command that is sent has its type, which begins with its owner.
        owners.setdefault(line.saga_id, {})[line.command_id] = line.detail.partition(".")[0]
    return [
        (
            Ended(
                row.id, row.name, row.key, standing_of(row.document).steps, owners.get(row.id, {})
            ),
            row.number or row.id,
        )
        for row in rows
    ]


async def _contradicted(databases: Databases, runs: Sequence[tuple[Ended, str]]) -> list[Lost]:
    asked: dict[str, list[str]] = {name: [] for name in databases.services}
    for run, _ in runs:
        for command_id in wanted(run):
            if (service := run.owners.get(command_id)) in asked:
                asked[service].append(command_id)
    rows = {
        name: {it.id: it for it in await _received(databases.services[name], ids)}
        for name, ids in asked.items()
    }
    orchestrator = databases.orchestrator
    assert orchestrator is not None
    source = await _name_of(orchestrator)
    # After the rows: what a purge took in between, its mark covers.
    marks = {
        name: await _purged(it, source) for name, it in databases.services.items() if asked[name]
    }
    lost: list[Lost] = []
    for run, number in runs:
        forgot = {name for name, mark in marks.items() if mark is not None and mark.covers(number)}
        lost += contradicted(run, rows, forgot)
    return lost


async def _received(source: Source, ids: Sequence[str]) -> list[Received]:
    found: list[Received] = []
    inbox = source.tables.messaging.inbox
    for some in chunks(sorted(set(ids)), CHUNK):
        query = _rows(source).where(inbox.c.id.in_(some))
        found += [_as_received(row) for row in await source.rows(query)]
    return found


def _rows(source: Source, *conditions: ColumnElement[bool]) -> Any:
    inbox = source.tables.messaging.inbox
    columns = (inbox.c.id, inbox.c.state, inbox.c.saga, inbox.c.barred_by)
    return select(*columns).where(inbox.c.consumer == source.name, *conditions)


def _as_received(row: Row[Any]) -> Received:
    return Received(row.id, State(row.state), row.saga or "", row.barred_by)


async def _purged(source: Source, of: str) -> EndedSagas | None:
    """How far the purge of this inbox came, of the runs of that orchestrator."""
    marks = source.tables.messaging.inbox_watermark.c
    query = select(marks.below, marks.except_ids).where(
        marks.consumer == source.name, marks.source == of, marks.scope == SAGA
    )
    for row in await source.rows(query):
        return EndedSagas(row.below, frozenset(orjson.loads(row.except_ids)))
    return None


# From the inboxes to the runs


async def _unheard(
    source: Source, orchestrator: Source, name: str, since: datetime | None, found: _Found
) -> list[Lost]:
    """What the inbox has of runs that the orchestrator does not know, or not so."""
    inbox = source.tables.messaging.inbox
    conditions = [inbox.c.source == name, inbox.c.saga.is_not(None)]
    if since is not None:
        conditions.append(inbox.c.received_at >= since)
    strange: dict[str, list[Received]] = {}
    known: dict[str, Ended] = {}
    last: str | None = None
    while True:
        query = _rows(source, *conditions).order_by(inbox.c.id).limit(CHUNK)
        rows = await source.rows(query if last is None else query.where(inbox.c.id > last))
        found.rows += len(rows)
        received = [_as_received(row) for row in rows]
        ids = sorted({it.saga for it in received})
        alive, ended = await _standing(orchestrator, ids)
        for it in received:
            run = ended.get(it.saga)
            if it.saga in alive or (run is not None and it.id in run.command_ids):
                continue
            if it.saga in strange or len(strange) < MAX_LOST:
                strange.setdefault(it.saga, []).append(it)
                if run is not None:
                    known[it.saga] = run
        if len(rows) < CHUNK:
            break
        last = rows[-1].id
    lost: list[Lost] = []
    for saga_id, rows_of_run in strange.items():
        run = known.get(saga_id)
        # They tell which of the strange ones are undos.
        others = [] if run is None else await _received(source, sorted(run.command_ids))
        one = unheard(source.name, saga_id, [*rows_of_run, *others], run)
        lost += [] if one is None else [one]
    return lost


async def _standing(
    orchestrator: Source, ids: Sequence[str]
) -> tuple[frozenset[str], Mapping[str, Ended]]:
    """Which of these runs have not ended, or were removed by retention; and those that ended."""
    if not ids:
        return frozenset(), {}
    saga = orchestrator.tables.saga
    is_live = saga.c.ended_at.is_(None)
    live = await orchestrator.rows(select(saga.c.id).where(saga.c.id.in_(ids), is_live))
    ended: dict[str, Ended] = {}
    async for runs in _ended(orchestrator, None, ids):
        ended |= {run.id: run for run, _ in runs}
    alias = orchestrator.tables.saga_alias
    is_removed = alias.c.ended.is_not(None)
    removed = await orchestrator.rows(select(alias.c.id).where(alias.c.id.in_(ids), is_removed))
    standing = {row.id for row in (*live, *removed)}
    # After the rest: what was removed meanwhile is below it. Of such an id no more is remembered.
    for row in await orchestrator.rows(select(orchestrator.tables.saga_retention.c.below)):
        if row.below is not None:
            standing |= {it for it in ids if it < row.below and it not in ended}
    return frozenset(standing), ended


async def _name_of(orchestrator: Source) -> str:
    """The name under which it sends commands."""
    table = orchestrator.tables.messaging.outbox_service
    for row in await orchestrator.rows(select(table.c.name)):
        return str(row.name)
    return ORCHESTRATOR


# Messages that come again


async def _come_again(databases: Databases, name: str) -> Mapping[str, int]:
    """How many messages wait, by database, that their receiver has already; of the first COUNTED
    of each."""
    inboxes = dict(databases.services)
    if databases.orchestrator is not None:
        inboxes[name] = databases.orchestrator
    counted: dict[str, int] = {}
    for source in databases.all:
        outbox = source.tables.messaging.outbox
        query = select(outbox.c.id, outbox.c.destination).order_by(outbox.c.seq).limit(COUNTED)
        waiting: dict[str, list[str]] = {}
        for row in await source.rows(query):
            waiting.setdefault(row.destination, []).append(row.id)
        again = 0
        for destination, ids in waiting.items():
            if (receiver := inboxes.get(destination)) is None:
                continue
            inbox = receiver.tables.messaging.inbox
            for some in chunks(ids, CHUNK):
                known = select(inbox.c.id).where(
                    inbox.c.consumer == destination, inbox.c.id.in_(some)
                )
                again += len(await receiver.rows(known))
        if again:
            counted[source.name] = again
    return counted
