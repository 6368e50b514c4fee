"""Answers as messages: what a participant needs where commands come on a way without a way back.

    inbox = Inbox(handlers, sessions, clock=clock, told=add_answer)
    answering = AnsweringInbox(inbox, sessions)
    replies = await answering.receive(envelopes)

A consumer hands what it took from its queue to `answering`, and acknowledges a message when its
reply says that it does not come again. The answers leave through the participant's own outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from outbox.adding.add import add
from outbox.adding.causes import Cause, caused_by
from outbox.contract import CommandAnswered
from outbox.ids import derive
from outbox.replies import Outcome, Reply
from outbox.wire import reply_json
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

_SAME_EACH_TIME = frozenset(
    {
        Outcome.DONE,
        Outcome.REFUSED,
        Outcome.ALREADY_UNDONE,
        Outcome.NOTHING_TO_UNDO,
        Outcome.EXPIRED,
    }
)
_OWN = frozenset({Outcome.FAILED, Outcome.TOO_BUSY, Outcome.NOT_ATTEMPTED})


class Receiving(Protocol):
    """What an `Inbox` is to a consumer."""

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        """One answer for each envelope, in their order."""


def add_answer(session: Session, envelope: Envelope, reply: Reply) -> None:
    """Send a definite answer to a command that awaits one, if the session's transaction commits:
    it is what an `Inbox` that answers by message is given as `told`.

    The same answer to the same command is the same message, however often it is added.
    """
    if reply.outcome.is_final and _may_be_told(envelope):
        _add(session, envelope, reply)


class AnsweringInbox:
    """An inbox, made with `told=add_answer`, whose other answers become messages too: that a
    command is locked or ongoing, and that it was rejected.

    Not told is what the consumer itself tries again: failed, too busy, not attempted, and an
    unknown type.
    """

    def __init__(self, inbox: Receiving, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._inbox = inbox
        self._sessions = sessions

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        """One answer for each envelope, in their order. A command that wants its answer to go to
        another name than its sender's is rejected, and does not run.

        Raises what `Inbox.receive` raises; and what the database raises when it is away, after
        which the same batch, sent again, is answered again.
        """
        replies = await self._inbox.receive(envelopes, settled)
        answered = list(zip(envelopes, replies, strict=True))
        untold = [(each, reply) for each, reply in answered if _is_told_afterwards(each, reply)]
        if untold:
            async with self._sessions.begin() as session:
                for envelope, reply in untold:
                    cause = Cause(envelope.id, envelope.correlation, envelope.trace)
                    caused_by(session, cause)
                    _add(session, envelope, reply)
                caused_by(session, None)
        return replies


def _add(session: Session | AsyncSession, envelope: Envelope, reply: Reply) -> None:
    assert envelope.correlation is not None, "only commands of a saga are answered"
    answer = CommandAnswered(
        instance_id=envelope.correlation,
        command_id=envelope.id,
        outcome=reply.outcome.value,
        value=reply.value,
        code=reply.code,
        reason=reply.reason,
        retry_after=reply.retry_after,
        after_pending=reply.after_pending,
    )
    id = None
    if reply.outcome in _SAME_EACH_TIME:
        id = derive(envelope.id, "reply", reply_json.dumps(reply).decode())
    add(session, answer, to=envelope.reply_to, id=id)


def _may_be_told(envelope: Envelope) -> bool:
    return envelope.reply_to == envelope.source and envelope.correlation is not None


def _is_told_afterwards(envelope: Envelope, reply: Reply) -> bool:
    if reply.outcome.is_final or reply.outcome in _OWN or reply.code == "unknown-type":
        return False
    return _may_be_told(envelope)
