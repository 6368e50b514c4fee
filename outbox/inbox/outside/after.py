"""The call of `after`, in the transaction that writes a result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from outbox.adding.causes import caused_by
from outbox.inbox.handling.context import Context
from outbox.inbox.handling.handler import Handler
from outbox.inbox.handling.registration import is_async
from outbox.inbox.outside.call import Call
from outbox.inbox.transactions.judging import HandlerFailed
from outbox.inbox.transactions.session import HandlerGivenUp, straight
from outbox.inbox.transactions.terms import Call as CallHandler
from outbox.inbox.transactions.terms import HandlerLate, cause_of
from outbox.replies import Outcome, Refused, Reply
from outbox.tracing import Handling, tracer_in_use
from outbox.wire.codec import decode_value


def run_after(
    session: Session, call: Call, reply: Reply, call_handler: CallHandler, seconds: float
) -> None:
    """Let `after`, if there is one, write what belongs to that reply. Raises HandlerLate, and
    HandlerFailed for what it raises."""
    after, arrival = call.outside.after, call.arrival
    if after is None:
        return
    handler = _handler_of(call, after, reply)
    given = handler, session, [arrival.message], [call.context], seconds
    caused_by(session, cause_of(arrival))
    try:
        with Handling([arrival.envelope], tracer_in_use()):
            straight(session, lambda: call_handler(*given))
    except (HandlerLate, HandlerGivenUp):
        raise
    except Exception as error:
        raise HandlerFailed(error) from error
    finally:
        caused_by(session, None)


def _handler_of(call: Call, after: Callable[..., Any], reply: Reply) -> Handler:
    """`after` as a handler of the command, for the call of a runner."""
    given = _given(call, reply)
    if is_async(after):

        @functools.wraps(after)
        async def write(session: Any, command: Any, context: Context) -> None:
            await after(session, command, given, context)

    else:

        @functools.wraps(after)
        def write(session: Any, command: Any, context: Context) -> None:
            after(session, command, given, context)

    cls = type(call.arrival.message)
    return Handler(cls, write, takes_lists=False, is_async=is_async(after))


def _given(call: Call, reply: Reply) -> object:
    """The reply as `after` gets it."""
    if reply.outcome is Outcome.REFUSED:
        return Refused(reply.code or "", reply.reason or "")
    return None if reply.value is None else decode_value(call.reply_type, reply.value)
