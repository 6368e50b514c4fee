"""What the HTTP transport sends, and what it makes of each answer."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from fastapi import FastAPI
from opentelemetry.context import attach, detach

from outbox import tracing
from outbox.errors import OutboxError
from outbox.ids import compose
from outbox.inbox.inbox import Inbox
from outbox.replies import Outcome, Reply
from outbox.safe_text import MAX_REASON_LENGTH, is_storable
from outbox.testing import FakeClock
from outbox.transports import HttpTransport, Unacceptable, Unreachable
from outbox.transports.http import posting
from outbox.transports.http import transport as http
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring, verify
from outbox.wire.envelope import BATCH, Envelope, from_batch
from outbox.wire.settled import EndedSagas
from tests.support.http.http_ends import (
    DONE,
    KEYS,
    ONE,
    answering,
    connected,
    delivery_to,
    do_all,
    to,
)
from tests.support.http.servers import scripted, serving
from tests.support.outbox.envelopes import AN_ID, ANOTHER_ID, an_envelope

# --- The request -----------------------------------------------------------------------------


async def test_the_request_is_a_signed_batch() -> None:
    clock = FakeClock()
    settled = EndedSagas(ANOTHER_ID, frozenset({AN_ID}))
    async with connected(do_all, clock=clock, settled=lambda: settled) as (transport, server):
        assert await transport.deliver(ONE) == DONE
    (request,) = server.requests
    assert request.target == "/messages"
    assert request.headers["content-type"] == BATCH
    assert request.headers["host"] == server.address.removeprefix("http://")
    assert request.headers["user-agent"] == "sagabox (articles)"
    assert request.headers["sagabox-settled"] == settled.to_header()
    assert from_batch(request.body) == list(ONE)
    signer = verify(
        KEYS,
        method="POST",
        target=request.target,
        headers=request.headers,
        body=request.body,
        now=clock.now(),
    )
    assert signer == "now"


async def test_a_request_says_its_trace_only_where_there_is_one() -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with connected(do_all) as (transport, server):
        assert await transport.deliver(ONE) == DONE
        token = attach(tracing.context_of(own))
        try:
            assert await transport.deliver(ONE) == DONE
        finally:
            detach(token)
    without, with_trace = server.requests
    assert "traceparent" not in without.headers
    assert with_trace.headers["traceparent"] == own
    # Each message has its own all the same.
    assert from_batch(with_trace.body) == list(ONE)


async def test_the_path_of_the_address_is_kept_and_signed() -> None:
    async with scripted(do_all) as server:
        transport = to(server.address + "/services/comments/")
        assert await transport.deliver(ONE) == DONE
        await transport.aclose()
    (request,) = server.requests
    assert request.target == "/services/comments/messages"
    headers, body, now = request.headers, request.body, FakeClock().now()
    assert verify(KEYS, method="POST", target=request.target, headers=headers, body=body, now=now)


async def test_too_many_live_sagas_leave_the_statement_out_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = frozenset(compose(1, number) for number in range(101))
    settled = EndedSagas(compose(2, 0), live)
    with caplog.at_level(logging.ERROR, logger="outbox"):
        async with connected(do_all, settled=lambda: settled) as (transport, server):
            assert await transport.deliver(ONE) == DONE
    assert "sagabox-settled" not in server.requests[0].headers
    assert "101 live sagas" in caplog.text


async def test_a_message_that_cannot_be_written_is_unacceptable_and_nothing_is_sent() -> None:
    naive = replace(ONE[0], time=datetime(2030, 1, 1))  # noqa: DTZ001 - the broken value under test
    async with connected(do_all) as (transport, server):
        delivery = await transport.deliver([naive])
    assert isinstance(delivery, Unacceptable)
    assert "no time zone" in delivery.reason
    assert not server.requests


@pytest.mark.parametrize(
    "address",
    [
        "comments:8002",
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:99999",
        "http://ada:hunter2@127.0.0.1",
        "http://127.0.0.1/?token=hunter2",
        "http://127.0.0.1/#part",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nhost: elsewhere",
        "http://bücher.example",
    ],
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(OutboxError, match="is not an address to send to") as refused:
        to(address)
    assert "hunter2" not in str(refused.value)


# --- What an answer means --------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_refused_as_wrong_is_unacceptable(status: int) -> None:
    body = json.dumps({"detail": "the attribute 'id' of event 3 is wrong"}).encode()
    delivery = await delivery_to(answering(status, body))
    assert isinstance(delivery, Unacceptable)
    assert delivery.reason.startswith(f"{status} ")
    assert delivery.reason.endswith(": the attribute 'id' of event 3 is wrong")


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        *((status, True) for status in (202, 204, 500, 501, 502, 503, 504, 599)),
        *((status, False) for status in (301, 307, 308, 401, 403, 404, 405, 408, 409, 415, 429)),
    ],
)
async def test_any_other_status_is_the_destinations_own_trouble(status: int, sent: bool) -> None:
    delivery = await delivery_to(answering(status, location="/elsewhere"))
    assert isinstance(delivery, Unreachable)
    assert delivery.sent is sent
    assert delivery.reason.startswith(str(status))
    assert delivery.retry_after is None


async def test_a_receiver_without_room_says_that_it_used_nothing() -> None:
    body = json.dumps({"code": "too-busy", "detail": "no room"}).encode()
    delivery = await delivery_to(answering(503, body, retry_after="1"))
    assert delivery == Unreachable(delivery.reason, sent=False, retry_after=1.0)
    assert delivery.reason.startswith("503 Service Unavailable: no room, at http://")


@pytest.mark.parametrize(
    ("status", "end"),
    [(404, "; correct the peer's address"), (405, "; correct the peer's address"), (401, "")],
)
async def test_what_answers_otherwise_is_named_by_its_address(status: int, end: str) -> None:
    async with connected(answering(status)) as (transport, server):
        delivery = await transport.deliver(ONE)
    assert isinstance(delivery, Unreachable)
    assert delivery.reason.endswith(f", at {server.address}/messages{end}")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("99999999999999", 300.0),
        ("Tue, 01 Jan 2030 00:00:30 GMT", 30.0),
        ("Tue, 01 Jan 2030 00:00:30 -0000", 30.0),
        ("Tue, 01 Jan 2030 01:00:00 GMT", 300.0),
        ("Mon, 31 Dec 2029 23:00:00 GMT", 0.0),
        ("-3", None),
        ("soon", None),
        ("1.5", None),
        ("", None),
        ("\xb2", None),
        (f"Tue, 01 Jan 2030 00:00:30 +{'9' * 20}", None),
        (f"Tue, 01 Jan {'9' * 20} 00:00:30 GMT", None),
    ],
)
async def test_the_wish_to_be_asked_later_is_understood_and_bounded(
    header: str, seconds: float | None
) -> None:
    answer = posting.Answer(503, {"retry-after": header}, b"")
    delivery = http.read_answer(answer, [AN_ID], datetime(2030, 1, 1, tzinfo=UTC))
    assert isinstance(delivery, Unreachable)
    assert delivery.retry_after == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome</html>",
        b"{}",
        b"[]",
        b'[{"specversion":"1.0"}]',
        b"\xff\xfe",
        b"[" * 300,
    ],
    ids=str,
)
async def test_an_answer_without_the_replies_leaves_it_open_what_happened(body: bytes) -> None:
    delivery = await delivery_to(answering(200, body))
    assert isinstance(delivery, Unreachable)
    assert delivery.sent


@pytest.mark.parametrize("body", [b"", b"<p>", b"[]", b'{"detail":7}', b'{"detail":null}', b"\xff"])
async def test_a_refusal_without_problem_details_is_named_by_its_status(body: bytes) -> None:
    assert await delivery_to(answering(400, body)) == Unacceptable("400 Bad Request")


async def test_a_reason_is_bounded() -> None:
    body = json.dumps({"detail": "x" * 100_000}).encode()
    delivery = await delivery_to(answering(422, body))
    assert len(delivery.reason) == MAX_REASON_LENGTH


async def test_a_reason_holds_nothing_that_a_database_refuses() -> None:
    delivery = await delivery_to(answering(422, rb'{"detail":"a\u0000b"}'))
    assert is_storable(delivery.reason)
    assert delivery.reason.endswith(": a\ufffdb")


class Everything:
    """Stands where an inbox stands, and does it all."""

    consumer = "comments"

    async def receive(self, envelopes: list[Envelope], _: object) -> list[Reply]:
        return [Reply(Outcome.DONE) for _ in envelopes]


@asynccontextmanager
async def connected_to_a_receiver(**options: Any) -> AsyncIterator[HttpTransport]:
    app = FastAPI()
    arguments: dict[str, Any] = {"keys": KEYS, "clock": FakeClock()}
    app.include_router(receiver(cast(Inbox, Everything()), **(arguments | options)))
    async with serving(app) as address:
        transport = to(address)
        try:
            yield transport
        finally:
            await transport.aclose()


async def test_a_wrong_key_is_the_destinations_trouble_and_not_the_messages() -> None:
    others = Keyring({"now": b"other" * 8}, "now")
    async with connected_to_a_receiver(keys=others) as transport:
        delivery = await transport.deliver(ONE)
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "the signature does not fit the request under the key 'now'" in delivery.reason


async def test_a_batch_above_the_receivers_limits_is_unacceptable() -> None:
    large = [
        an_envelope(id=compose(1, number), data=b'"%s"' % (b"x" * 5000)) for number in range(4)
    ]
    many = [an_envelope(id=compose(1, number)) for number in range(11)]
    async with connected_to_a_receiver(max_body=10_000, max_messages=10) as transport:
        for batch, limit in [(large, "10000 bytes"), (many, "10 are allowed")] * 2:
            delivery = await transport.deliver(batch)
            assert isinstance(delivery, Unacceptable)
            assert limit in delivery.reason
            assert await transport.deliver(ONE) == DONE
