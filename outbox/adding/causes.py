"""The cause of added messages: kept on the session while a handler runs, and read by `add`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from outbox import tracing

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]


_CAUSE: Final = "sagabox_cause"


@dataclass(frozen=True)
class Cause:
    """The message whose handling leads to others: they carry its id, saga and trace."""

    id: str
    correlation: str | None = None
    trace: str | None = None


def caused_by(session: AnySession, cause: Cause | Sequence[Cause] | None) -> None:
    """Set the cause of the messages added to this session from now on; None ends that.

    Of several causes, a message takes the one whose id is its `causation`.
    """
    if cause is not None and not isinstance(cause, Cause):
        session.info[_CAUSE] = {each.id: each for each in cause}
    else:
        session.info[_CAUSE] = cause


def cause_now(session: Session) -> Any:
    """What `caused_by` has set, for `restore_cause`."""
    return session.info.get(_CAUSE)


def restore_cause(session: Session, before: Any) -> None:
    """Set again what `cause_now` gave."""
    session.info[_CAUSE] = before


def is_cause(session: Session, id: str) -> bool:
    """Whether the message of that id is handled in this session just now."""
    causes: Cause | Mapping[str, Cause] | None = session.info.get(_CAUSE)
    return causes.id == id if isinstance(causes, Cause) else id in (causes or ())


def cause_of(
    target: Session | Connection, causation: str | None
) -> tuple[Cause | None, str | None]:
    """The cause of a new message, and the trace that the message inherits."""
    causes: Cause | Mapping[str, Cause] | None = (
        target.info.get(_CAUSE) if isinstance(target, Session) else None
    )
    if isinstance(causes, Cause):
        return causes, tracing.current() or causes.trace
    cause = causes.get(causation) if causes and causation is not None else None
    if cause is not None:
        # The current trace belongs to none of the messages that a handler takes as one list.
        return cause, cause.trace or tracing.current()
    return None, tracing.current()
