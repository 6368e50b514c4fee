"""Questions of an inbox to an orchestrator about ended sagas, and their answers.

An orchestrator says with each delivery which sagas have ended, and can name MAX_LIVE that have not.
Where more live for long, rows of ended sagas behind those would stay for ever. So the consumer asks
about the sagas behind, part by part, through its own outbox, and raises its watermark by each
answer.

An answer is about a range of numbers, and names the live ones in it; the watermark then covers all
others of the range, also sagas of which this consumer has no row. To cover only the purged ones, it
would have to remember them one by one, for ever.

That a saga has ended stays true, so answers may come late, twice or out of order, also to another
process, or after a question that no process remembers: no answer makes the watermark cover less,
and one that leaves a gap behind the watermark changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

import orjson
from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from outbox.adding.add import add
from outbox.adding.installation import tables_of
from outbox.contract import AreEnded, RunsEnded
from outbox.errors import InvalidMessage
from outbox.ids import is_id, time_of
from outbox.inbox.handlers import Context
from outbox.inbox.purge import origins, statements
from outbox.inbox.retention import horizon
from outbox.inbox.transactions import store
from outbox.wire.settled import MAX_REMEMBERED, MAX_TOLD, EndedRange, EndedSagas

ASKED = "asked"

PATIENCE = timedelta(hours=1)
"""How long the inbox waits for an answer, and how long until it asks again about sagas that were
live."""


class Stopped(StrEnum):
    """The reason why old rows of an orchestrator's sagas stay, although it does not say that the
    sagas live."""

    NO_WAY = "no-way"
    """This service has no transport to the orchestrator, so that it cannot ask."""
    UNANSWERED = "unanswered"
    """It has asked, and waits for the answer for longer than PATIENCE."""
    TOO_MANY_LIVE = "too-many-live"
    """More sagas live than MAX_REMEMBERED."""
    TWO_DATABASES = "two-databases"
    """Two orchestrators have that name, in different databases."""


@dataclass(frozen=True, slots=True)
class Known:
    """The statements of an orchestrator about its sagas: `last`, with its latest delivery, and
    `ever`."""

    last: EndedSagas
    ever: EndedSagas


@dataclass(frozen=True, slots=True)
class _Asked:
    """The last question: its id and its end; whether its answer is still to come, and whether it
    stands for one that was lost; and up to where the answers of this pass have come, None where the
    pass is over."""

    id: str
    before: str
    is_open: bool
    is_repeated: bool
    reached: str | None


def ask(
    session: Session,
    consumer: str,
    source: str,
    known: Known,
    now: datetime,
    retention: timedelta,
    has_way: bool,
) -> Stopped | None:
    """Ask the orchestrator about old rows that its deliveries do not cover, if there are any and no
    question is open. Returns why they will stay all the same, if they will.

    Call it after a purge, in a transaction of its own.
    """
    store.lock_watermarks(session)
    inbox, before = tables_of(session).inbox, horizon(now, retention)
    number = store.run_number(inbox)
    stored = store.watermarks(session, consumer).sagas.get(source)
    mark = statements.joined(known.ever, stored, before)

    def oldest(since: str) -> str | None:
        """The smallest number, at least the given one, of old rows that must stay so far."""
        unknown = or_(number >= mark.before, number.in_(mark.live))
        statement = (
            select(number)
            .where(statements.is_old(inbox, consumer, now, retention), inbox.c.source == source)
            .where(number >= since, number < before, unknown)
            .order_by(number)
            .limit(1)
        )
        return session.execute(statement).scalar_one_or_none()

    first = oldest(known.last.before)
    if first is None:
        return None
    if not has_way:
        return Stopped.NO_WAY
    is_full = len(mark.live) >= MAX_REMEMBERED
    stopped = Stopped.TOO_MANY_LIVE if is_full else None
    asked = _last_asked(session, consumer, source)
    wanted: str | None = first
    is_repeated = False
    if asked is not None:
        is_late = time_of(asked.id) <= now - PATIENCE
        if asked.is_open:
            if is_late or asked.is_repeated:
                stopped = Stopped.UNANSWERED
            if not is_late or _is_on_its_way(session, source, asked.id):
                return stopped
            is_repeated = True
        else:
            wanted = None if asked.reached is None else oldest(max(first, asked.reached))
            if wanted is None or (is_full and wanted >= mark.before):
                # Live sagas are asked about again, but not at once.
                wanted = first if is_late else None
    if wanted is None:
        return stopped
    # The process that gets the answer, maybe another one, must know where the question began.
    store.set_watermark(session, consumer, source, store.SAGA, mark)
    question = AreEnded(consumer, min(wanted, mark.before), before)
    id = add(session, question, to=source)
    _keep(
        session,
        consumer,
        source,
        _Asked(id, before, is_open=True, is_repeated=is_repeated, reached=None),
    )
    return stopped


def check_answer(answer: RunsEnded) -> None:
    """Raises InvalidMessage where the answer is invalid."""
    if len(answer.live) > MAX_TOLD or not all(
        map(is_id, (answer.since, answer.before, *answer.live))
    ):
        raise InvalidMessage(
            f"{answer.message_type} needs ids in `since`, `before` and `live`, of which that names "
            f"{MAX_TOLD} at most",
            next_step="send what the orchestrator of this version sends",
        )


def learn(session: Session, answer: RunsEnded, context: Context) -> None:
    """The handler of answers: raise the watermark of the consumer that asked."""
    consumer, source = answer.consumer, context.source
    store.lock_watermarks(session)
    asked = _last_asked(session, consumer, source)
    if asked is None:
        return  # the database is older than the question
    if not origins.may_answer(session, consumer, source, answer.database):
        return  # it stays open, and is asked again
    mark = store.watermarks(session, consumer).sagas.get(source)
    # No question asked beyond its horizon, so no answer is believed beyond it.
    end = min(answer.before, asked.before)
    if mark is not None:
        extended = mark.extended(EndedRange(answer.since, end, frozenset(answer.live)))
        if extended != mark:
            store.set_watermark(session, consumer, source, store.SAGA, extended)
    if asked.is_open and context.causation == asked.id:
        reached = end if answer.is_more else None
        _keep(session, consumer, source, replace(asked, is_open=False, reached=reached))


def _last_asked(session: Session, consumer: str, source: str) -> _Asked | None:
    marks = tables_of(session).inbox_watermark.c
    found = session.execute(
        select(marks.below, marks.except_ids).where(
            marks.consumer == consumer, marks.source == source, marks.scope == ASKED
        )
    ).one_or_none()
    if found is None:
        return None
    rest = orjson.loads(found.except_ids)
    return _Asked(found.below, **rest)


def _keep(session: Session, consumer: str, source: str, asked: _Asked) -> None:
    rest = asdict(asked)
    del rest["id"]
    store.upsert(session, consumer, source, ASKED, asked.id, orjson.dumps(rest).decode())


def _is_on_its_way(session: Session, destination: str, id: str) -> bool:
    """Whether that question has not left yet: another one would only wait behind it."""
    tables = tables_of(session)
    return any(
        session.execute(
            select(exists().where(table.c.destination == destination, table.c.id == id))
        ).scalar_one()
        for table in (tables.outbox, tables.outbox_parked)
    )
