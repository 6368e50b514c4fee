"""The mark in the inbox of a participant: lost commands of runs that do not live stay lost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from orchestrator.cli.restored.opening import Opened
from outbox.adding.installation import install
from outbox.database.within import in_transaction
from outbox.ids import first_at, time_of
from outbox.inbox.transactions import restored
from outbox.wire.settled import MAX_REMEMBERED

_ALSO_NUMBER = timedelta(minutes=1)
"""An id that was made so long before its run begins may still become the run's number."""


@dataclass(frozen=True)
class Marked:
    """The mark: it covers runs that began before that time, except `live` ones. `is_cut` says that
    more live than are remembered, so that it stops earlier."""

    service: str
    orchestrator: str
    live: int
    before: datetime
    is_cut: bool


async def mark(participant: Opened, orchestrator: Opened) -> Marked:
    """Set the mark, by the runs that live at this moment."""
    # A start that is under way may begin a run under an id that is older than this moment.
    until = first_at(await orchestrator.time() - _ALSO_NUMBER)
    live = await _live(orchestrator, until)
    sessions = participant.database.sessions
    install(sessions, source=participant.name, routes={}, tables=participant.tables.messaging)
    reached = await in_transaction(
        sessions,
        lambda session: restored.mark(
            # A command of an old sender tells no number, and counts by the id of its run.
            session,
            participant.name,
            orchestrator.name,
            until,
            {*live, *live.values()},
        ),
    )
    exempt = sum(number < reached for number in live.values())
    return Marked(
        participant.name, orchestrator.name, exempt, time_of(reached), is_cut=reached != until
    )


async def _live(orchestrator: Opened, below: str) -> dict[str, str]:
    """The runs that have begun and not ended, with their numbers, the oldest first; one more than
    are remembered."""
    saga, has_begun = orchestrator.tables.saga, orchestrator.tables.has_begun
    number = func.coalesce(saga.c.number, saga.c.id, type_=saga.c.id.type)
    statement = (
        select(saga.c.id, number)
        .where(has_begun, number < below)
        .order_by(number)
        .limit(MAX_REMEMBERED + 1)
    )
    async with orchestrator.database.reading.connect() as connection:
        return {id_: told for id_, told in await connection.execute(statement)}
