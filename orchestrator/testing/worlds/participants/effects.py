"""The effects of commands at a participant, written in the transactions of their handlers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Boolean, Column, Connection, Integer, MetaData, String, Table, insert, select
from sqlalchemy.orm import Session

from outbox.database.column_types import id_column
from outbox.inbox.rows import State
from outbox.replies import Outcome
from outbox.wire import reply_json
from outbox.wire.envelope import Envelope

metadata = MetaData()
_effect = Table(
    "sagabox_effect",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    id_column(),
    Column("saga_id", String(36), nullable=False),
    Column("step", String(100), nullable=False),
    Column("is_undo", Boolean, nullable=False),
    Column("is_call", Boolean, nullable=False),
)
"""The table of commands that took effect, or whose call to the outside was begun."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a command: its run, step and direction."""

    saga_id: str
    step: str
    is_undo: bool

    @classmethod
    def of(cls, envelope: Envelope) -> Place:
        """The place of a command of the orchestrator."""
        return cls.at(envelope.key, bool(envelope.undoes))

    @classmethod
    def at(cls, key: str, is_undo: bool) -> Place:
        """The place of a command with that order key."""
        saga_id, _, step = key.partition("/")
        return cls(saga_id, step, is_undo)


@dataclass(frozen=True, slots=True)
class Effect:
    """What one command did, for good. `number` grows over all participants. `is_refused` says that
    it was pending and was refused then; `is_nothing`, that its call came to nothing."""

    number: int
    saga_id: str
    step: str
    is_undo: bool
    is_call: bool = False
    is_refused: bool = False
    is_nothing: bool = False


def note(session: Session, number: int, id: str, place: Place, *, is_call: bool) -> None:
    """Write that this command took effect, in its transaction."""
    values = {"number": number, "id": id, "saga_id": place.saga_id, "step": place.step}
    values |= {"is_undo": place.is_undo, "is_call": is_call}
    session.execute(insert(_effect).values(values))


def noted(connection: Connection, inbox: Table) -> list[Effect]:
    """What was written."""
    row, taken = _effect.c, inbox.c
    statement = (
        select(
            row.number, row.saga_id, row.step, row.is_undo, row.is_call, taken.reply, taken.state
        )
        .select_from(_effect)
        .outerjoin(inbox, taken.id == row.id)
    )
    return [
        Effect(
            *it[:5],
            is_refused=_is_refusal(it.reply),
            is_nothing=it.is_call and it.state == State.REFUSED,
        )
        for it in connection.execute(statement)
    ]


def _is_refusal(reply: str | None) -> bool:
    return reply is not None and reply_json.loads(reply).outcome is Outcome.REFUSED
