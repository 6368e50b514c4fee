"""From an envelope to a message that has a handler here, or to its rejection."""

from __future__ import annotations

from outbox.contract import Void
from outbox.errors import InvalidMessage, MessageTooLarge
from outbox.ids import is_id
from outbox.inbox.handlers import Handlers
from outbox.inbox.rows import Arrival
from outbox.replies import Outcome, Reply
from outbox.safe_text import described, fit
from outbox.wire.codec import check_size, decode
from outbox.wire.envelope import Envelope, fingerprint

MAX_UNDOES = 500


class Reader:
    """Reads envelopes for these handlers; a message has at most `most_bytes`."""

    def __init__(self, handlers: Handlers, *, most_bytes: int) -> None:
        self._handlers = handlers
        self._most_bytes = most_bytes

    def read(self, envelope: Envelope) -> Arrival | Reply:
        """The message of that envelope, or its rejection."""
        handler = self._handlers.find(envelope.type)
        if handler is None:
            return self._unknown_type(envelope)
        if envelope.reply_to not in (None, envelope.source):
            return _not_for_another(envelope)
        try:
            check_size(envelope.type, envelope.data, self._most_bytes)
            if envelope.undoes:
                _check_undo(envelope, handler.is_for_commands)
            message = decode(handler.message_class, envelope.data)
            if handler.check is not None:
                handler.check(message)
            digest = fingerprint(envelope)
        except MessageTooLarge as error:
            return Reply(Outcome.REJECTED, code="too-large", reason=described(error))
        except (InvalidMessage, ValueError) as error:
            return Reply(Outcome.REJECTED, code="invalid", reason=described(error))
        saga = envelope.correlation if handler.is_for_commands else None
        return Arrival(envelope, message, digest, saga)

    def _unknown_type(self, envelope: Envelope) -> Reply:
        versions = ", ".join(self._handlers.versions_of(envelope.type))
        known = f"; it knows {versions}" if versions else ""
        reason = f"{self._handlers.consumer} has no handler for {envelope.type}{known}"
        return Reply(Outcome.REJECTED, code="unknown-type", reason=reason)


def _check_undo(envelope: Envelope, is_command: bool) -> None:
    problem = ""
    if not is_command:
        problem = "an event cannot undo a command"
    elif envelope.id in envelope.undoes:
        problem = "a command cannot undo itself"
    elif len(envelope.undoes) > MAX_UNDOES:
        problem = f"it undoes {len(envelope.undoes)} commands, and at most {MAX_UNDOES} are allowed"
    if problem:
        raise ValueError(problem)


def never_called(*_: object) -> None:
    """The handler of `Void`, which the barrier answers by itself."""
    raise AssertionError("the barrier answers it")


def check_void(void: Void) -> None:
    """Raises InvalidMessage where its ids are none, or too many."""
    if not 0 < len(void.ids) <= MAX_UNDOES or not all(map(is_id, void.ids)):
        raise InvalidMessage(
            f"it names {len(void.ids)} commands that are to run no more",
            next_step=f"name 1 to {MAX_UNDOES} ids of commands",
        )


def _not_for_another(envelope: Envelope) -> Reply:
    reason = (
        f"{envelope.source} wants the answer to go to {envelope.reply_to}, and an answer goes to "
        "the sender alone; leave reply_to out, or give the sender's own name"
    )
    return Reply(Outcome.REJECTED, code="invalid", reason=fit(reason))
