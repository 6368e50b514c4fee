"""The HTTP transport: a signed `POST {address}/messages` with a batch, answered by replies.

transport = HttpTransport("http://127.0.0.1:8002", source="articles", keys=keys, clock=clock)
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import orjson

from outbox import tracing
from outbox.clock import Clock
from outbox.errors import MalformedEnvelope
from outbox.safe_text import fit
from outbox.transports.base import DEFAULT_TIMEOUT, Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.http.address import Address
from outbox.transports.http.posting import DEFAULT_MAX_ANSWER, Answer, NoAnswer, Poster
from outbox.transports.http.signing import TARGET_HEADER, TO_HEADER, Keyring, sign
from outbox.wire import attributes
from outbox.wire.envelope import BATCH, Envelope, replies_from_batch, to_batch
from outbox.wire.settled import SETTLED_HEADER, EndedSagas

MAX_RETRY_AFTER = 300.0
"""Seconds; a destination that asks for a longer pause is tried again all the same."""

# The one 503 that says that nothing was begun; any other may come from a proxy whose receiver died
# on the way, or from a database that did not confirm a commit.
_TOO_BUSY = "too-busy"

_log = logging.getLogger(__name__)


class HttpTransport:
    """The transport to the receiver below `address`, such as `http://127.0.0.1:8002`.

    `source` is this service's name, for the receiver's log. `to` is the name of the service there:
    with it no other service takes a request, and a proxy on the way may take a prefix off the path.
    `settled` gives the orchestrator's
    statement about its ended sagas, at each delivery. One delivery takes at most `timeout` seconds,
    connecting included. `tls` replaces the system's trusted certificates.

    Raises OutboxError where `address` is no plain http or https URL.
    """

    def __init__(
        self,
        address: str,
        *,
        source: str,
        to: str | None = None,
        keys: Keyring,
        clock: Clock,
        settled: Callable[[], EndedSagas | None] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_answer: int = DEFAULT_MAX_ANSWER,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parsed = Address.parse(address)
        self._http = Poster(f"{parsed}/messages", max_answer=max_answer, tls=tls)
        self._target = f"{parsed.path}/messages"
        self._keys = keys
        self._clock = clock
        self._settled = settled
        self._timeout = timeout
        self._headers = {
            "accept": BATCH,
            # What is signed and counted is what goes over the wire.
            "accept-encoding": "identity",
            "content-type": BATCH,
            "user-agent": f"sagabox ({attributes.quoted(source)})",
            TARGET_HEADER: self._target,
        }
        if to is not None:
            self._headers[TO_HEADER] = attributes.quoted(to)

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the batch in one request, and wait for the answer."""
        if not envelopes:
            return Answered(())
        try:
            body = to_batch(envelopes)
        except (ValueError, TypeError) as error:
            return Unacceptable(fit(f"the batch cannot be written: {error}"))
        now = self._clock.now()
        headers = {**self._headers, **self._statement(), **tracing.headers()}
        headers |= sign(
            self._keys, method="POST", target=self._target, headers=headers, body=body, now=now
        )
        match await self._http.post(headers, body, self._timeout):
            case NoAnswer(reason, sent):
                return Unreachable(fit(reason), sent=sent)
            case Answer() as answer:
                return read_answer(answer, [each.id for each in envelopes], now)

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
        await self._http.aclose()

    def _statement(self) -> dict[str, str]:
        settled = self._settled() if self._settled is not None else None
        if settled is None:
            return {}
        try:
            return {SETTLED_HEADER: settled.to_header()}
        except ValueError as error:
            # Without it the receiver only remembers for longer.
            _log.error("%s is left out: %s; choose a smaller id", SETTLED_HEADER, error)
            return {}


def read_answer(answer: Answer, ids: Sequence[str], now: datetime) -> Delivery:
    """The delivery that an answer to a batch of the messages `ids` means."""
    match answer.status:
        case 200:
            try:
                return Answered(replies_from_batch(answer.body, ids))
            except MalformedEnvelope as error:
                # The messages may have taken effect; only the replies are lost.
                return Unreachable(_reason(200, str(error)), sent=True)
        case 400 | 413 | 422:
            return Unacceptable(_described(answer))
        case status:
            wait = _retry_after(answer.headers.get("retry-after"), now)
            too_busy = status == 503 and _problem(answer).get("code") == _TOO_BUSY
            declined = too_busy or 300 <= status < 500
            return Unreachable(_described(answer), sent=not declined, retry_after=wait)


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from now, from a number of seconds or an HTTP date; None where it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _problem(answer: Answer) -> dict[str, Any]:
    try:
        problem = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _described(answer: Answer) -> str:
    detail = _problem(answer).get("detail")
    return _reason(answer.status, detail if isinstance(detail, str) else "")


def _reason(status: int, detail: str) -> str:
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    return fit(f"{phrase}: {detail}" if detail else phrase)
