"""The news of a command's burial, for the saga that waits for its answer."""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session

from outbox.inbox.answering import add_reply, has_way
from outbox.replies import DEAD_LETTER, Outcome, Reply
from outbox.tracing import fields_of
from outbox.transports.brokers.held.rows import is_awaited
from outbox.wire.envelope import Envelope

log = logging.getLogger("outbox.brokers")


def tell_burial(session: Session, envelope: Envelope, reason: str) -> None:
    """Tell the saga, if the session's transaction commits, that its command was given up. Nothing
    is told of a message for whose answer no saga waits."""
    if not is_awaited(envelope) or envelope.correlation is None or envelope.reply_to is None:
        return
    if not has_way(session, envelope.reply_to):
        log.error(
            "there is no way to %s, which is not told that its command %s was given up",
            envelope.reply_to,
            envelope.id,
            extra=fields_of(envelope),
        )
        return
    add_reply(
        session,
        Reply(Outcome.REJECTED, code=DEAD_LETTER, reason=reason),
        command_id=envelope.id,
        saga=envelope.correlation,
        reply_to=envelope.reply_to,
        trace=envelope.trace,
    )
