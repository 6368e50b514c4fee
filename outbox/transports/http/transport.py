"""The HTTP transport: a signed `POST {address}/messages` with a batch, answered by replies.

transport = HttpTransport("http://127.0.0.1:8002", source="articles", keys=keys, clock=clock)

A destination may have several addresses: `outbox.transports.addresses` says which one is asked.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import orjson

from outbox import tracing
from outbox.clock import Clock
from outbox.errors import MalformedEnvelope
from outbox.ids import is_id
from outbox.safe_text import fit
from outbox.transports.addresses.address import Address
from outbox.transports.addresses.destination import Destination
from outbox.transports.addresses.overview import Overview
from outbox.transports.addresses.pool import Told
from outbox.transports.addresses.resolvers import pool_of
from outbox.transports.base import DEFAULT_TIMEOUT, Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.http.posting import DEFAULT_MAX_ANSWER, Answer, NoAnswer, Poster
from outbox.transports.http.problems import ANOTHER_DATABASE, TOO_BUSY
from outbox.transports.http.signing import (
    DATABASE_HEADER,
    MEANT_HEADER,
    TARGET_HEADER,
    TO_HEADER,
    Keyring,
    sign,
)
from outbox.wire import attributes
from outbox.wire.envelope import BATCH, Envelope, replies_from_batch, to_batch
from outbox.wire.settled import SETTLED_HEADER, EndedSagas

MAX_RETRY_AFTER = 300.0
"""Seconds; a destination that asks for a longer pause is tried again all the same."""

_log = logging.getLogger(__name__)


class HttpTransport:
    """The transport to the receiver below `address`, such as `http://127.0.0.1:8002`; to several,
    as a setting writes them (`http://a:8002,http://b:8002`, `http+dns://comments:8002`).

    `source` is this service's name, for the receiver's log. `to` is the name of the service there:
    with it no other service takes a request, and a proxy on the way may take a prefix off the path.
    `settled` gives the orchestrator's
    statement about its ended sagas, at each delivery. One delivery takes at most `timeout` seconds,
    connecting included. `tls` replaces the system's trusted certificates.

    Raises OutboxError where `address` is none.
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
        self._pool = pool_of(Destination.parse(address), clock.monotonic)
        self._http = Poster(max_answer=max_answer, tls=tls)
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
        }
        if to is not None:
            self._headers[TO_HEADER] = attributes.quoted(to)

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the batch in one request, and wait for the answer."""
        if not envelopes:
            return Answered(())
        return await self._pool.deliver(envelopes, self._attempt, self._timeout)

    def begin(self) -> None:
        """Find the addresses, and get to know them, before there is anything to send."""
        self._pool.begin(self._attempt)

    def overview(self) -> Overview:
        """The addresses of the destination, as they stand now."""
        return self._pool.overview()

    async def ask(self, address: Address, within: float) -> Told:
        """What the receiver at that address says where it gets no message."""
        return await self._attempt((), address, None, within=within, connect_within=within)

    async def _attempt(
        self,
        envelopes: Sequence[Envelope],
        address: Address,
        database: str | None,
        *,
        within: float,
        connect_within: float,
    ) -> Told:
        try:
            body = to_batch(envelopes)
        except (ValueError, TypeError) as error:
            return Told(Unacceptable(fit(f"the batch cannot be written: {error}")), database)
        now, target = self._clock.now(), f"{address.path}/messages"
        headers = {**self._headers, TARGET_HEADER: target, **self._statement(), **tracing.headers()}
        if database is not None:
            headers[MEANT_HEADER] = database
        headers |= sign(
            self._keys, method="POST", target=target, headers=headers, body=body, now=now
        )
        posted = await self._http.post(
            address, target, headers, body, timeout=within, connect=connect_within
        )
        match posted:
            case NoAnswer(reason, sent):
                return Told(Unreachable(fit(reason), sent=sent))
            case Answer() as answer:
                told_by = answer.headers.get(DATABASE_HEADER.lower())
                delivery = read_answer(answer, [each.id for each in envelopes], now)
                return Told(
                    _placed(delivery, f"{address}/messages", answer.status),
                    database=told_by if is_id(told_by) else None,
                    is_busy=_is_too_busy(answer),
                    is_stranger=_is_meant_for_another(answer),
                )

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
        await self._pool.aclose()
        await self._http.aclose()

    def _statement(self) -> dict[str, str]:
        settled = self._settled() if self._settled is not None else None
        if settled is None:
            return {}
        try:
            return settled.to_headers()
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
            declined = _is_too_busy(answer) or 300 <= status < 500
            return Unreachable(_described(answer), sent=not declined, retry_after=wait)


def _placed(delivery: Delivery, url: str, status: int) -> Delivery:
    """The same delivery, whose reason names the URL: the wrong one is the first thing to rule
    out."""
    if not isinstance(delivery, Unreachable):
        return delivery
    hint = "; correct the peer's address" if status in (404, 405) else ""
    return replace(delivery, reason=fit(f"{delivery.reason}, at {url}{hint}"))


def _is_too_busy(answer: Answer) -> bool:
    # Any other 503 may come from a proxy whose receiver died on the way, or from a database that
    # did not confirm a commit.
    return answer.status == 503 and _problem(answer).get("code") == TOO_BUSY


def _is_meant_for_another(answer: Answer) -> bool:
    # A proxy says 421 of a connection that it does not want, of any service behind it.
    return answer.status == 421 and _problem(answer).get("code") == ANOTHER_DATABASE


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from now, from a number of seconds or an HTTP date; None where it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the second for numbers of any length
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
