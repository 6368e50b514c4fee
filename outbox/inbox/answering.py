"""Answers as messages: what a participant needs where commands come on a way without a way back.

    inbox = Inbox(handlers, sessions, clock=clock, told=add_answer)
    answering = AnsweringInbox(inbox, sessions)
    replies = await answering.receive(envelopes)

A consumer hands what it took from its queue to `answering`, and acknowledges a message when its
reply says that it does not come again. The answers leave through the participant's own outbox.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.orm import Session

from outbox.adding.add import add
from outbox.adding.causes import Cause, cause_now, caused_by, restore_cause
from outbox.adding.installation import installation_of
from outbox.contract import CommandAnswered
from outbox.errors import Unrouted
from outbox.ids import derive
from outbox.inbox.limits import InboxLimits
from outbox.inbox.runners import Sessions, runner_for
from outbox.replies import Outcome, Reply
from outbox.wire import reply_json
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger("outbox.inbox")

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
    if is_told_at_once(envelope, reply):
        _answer(session, envelope, reply)


class AnsweringInbox:
    """An inbox, made with `told=add_answer`, whose other answers become messages too: that a
    command is locked or ongoing, and that it was rejected.

    Not told is what the consumer itself tries again: failed, too busy, not attempted, and an
    unknown type.
    """

    def __init__(self, inbox: Receiving, sessions: Sessions) -> None:
        """`sessions` are those of the inbox."""
        self._inbox = inbox
        self._runner = runner_for(sessions, commit_within=InboxLimits.answer_within)

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
        untold = [(each, reply) for each, reply in answered if is_told_afterwards(each, reply)]
        if untold:
            await self._runner.run(_tell, untold)
        return replies


def require_way(session: Session, reply_to: str | None) -> None:
    """Raises Unrouted where the session's service has no way to that name."""
    if reply_to is not None:
        installation_of(session).require(reply_to)


def has_way(session: Session, reply_to: str | None) -> bool:
    """Whether the session's service has a way to that name."""
    try:
        require_way(session, reply_to)
    except Unrouted:
        return False
    return True


def add_reply(
    session: Session, reply: Reply, *, command_id: str, saga: str, reply_to: str, trace: str | None
) -> None:
    """Send this reply to a command, which need not be what the session handles, if the session's
    transaction commits."""
    before = cause_now(session)
    # In a list, since the trace of a single cause gives way to that of the code that runs.
    caused_by(session, [Cause(command_id, saga, trace)])
    try:
        _add(session, reply, command_id, saga, reply_to, causation=command_id)
    finally:
        restore_cause(session, before)


def _tell(session: Session, untold: Sequence[tuple[Envelope, Reply]]) -> None:
    for envelope, reply in untold:
        if not has_way(session, envelope.reply_to):
            log.error(
                "%s awaits an answer to the command %s, and there is no way to it: add it to "
                "SAGABOX_PEERS",
                envelope.reply_to,
                envelope.id,
            )
            continue
        caused_by(session, Cause(envelope.id, envelope.correlation, envelope.trace))
        _answer(session, envelope, reply)
    caused_by(session, None)


def _answer(session: Session, envelope: Envelope, reply: Reply) -> None:
    assert envelope.correlation is not None, "only commands of a saga are answered"
    _add(session, reply, envelope.id, envelope.correlation, envelope.reply_to)


def _add(
    session: Session,
    reply: Reply,
    command_id: str,
    saga: str,
    reply_to: str | None,
    causation: str | None = None,
) -> None:
    answer = CommandAnswered(
        instance_id=saga,
        command_id=command_id,
        outcome=reply.outcome.value,
        value=reply.value,
        code=reply.code,
        reason=reply.reason,
        retry_after=reply.retry_after,
        after_pending=reply.after_pending,
    )
    id = None
    if reply.outcome in _SAME_EACH_TIME:
        id = derive(command_id, "reply", reply_json.dumps(reply).decode())
    add(session, answer, to=reply_to, id=id, causation=causation)


def is_told_at_once(envelope: Envelope, reply: Reply) -> bool:
    """Whether that answer is told in the transaction that it is about."""
    return reply.outcome.is_final and _may_be_told(envelope)


def is_told_afterwards(envelope: Envelope, reply: Reply) -> bool:
    """Whether that answer, which changed nothing, is told in a transaction of its own."""
    if reply.outcome.is_final or reply.outcome in _OWN or reply.code == "unknown-type":
        return False
    return _may_be_told(envelope)


def _may_be_told(envelope: Envelope) -> bool:
    return envelope.reply_to == envelope.source and envelope.correlation is not None
