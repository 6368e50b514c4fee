"""`POST /messages`: who is let in, and what bad input gets."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.transports.http.signing import Keyring, sign
from outbox.wire.codec import MAX_MESSAGE_BYTES
from outbox.wire.envelope import (
    BATCH,
    STRUCTURED,
    Envelope,
    from_batch,
    replies_from_batch,
    to_batch,
    to_binary,
    to_structured,
)
from outbox.wire.settled import SETTLED_HEADER, EndedSagas
from tests.support.outbox.inboxes import Bench, Book, Names, Noted, envelope
from tests.support.outbox.receiving import KEYS, Client, assert_problem

DONE = Reply(Outcome.DONE)


# --- What is let in ----------------------------------------------------------------------------


async def test_a_batch_is_answered_with_a_batch_of_replies(
    client: Client, bench: Bench, names: Names
) -> None:
    batch = [envelope(names(), Noted("a", "1")), envelope(names(), Book("b", "2"))]
    answer = await client.post(to_batch(batch))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == BATCH
    replies = from_batch(answer.content)
    assert [(each.causation, each.source) for each in replies] == [
        (each.id, "bank") for each in batch
    ]
    assert replies_from_batch(answer.content, [each.id for each in batch]) == [
        DONE,
        Reply(Outcome.DONE, value={"balance": 1}),
    ]
    assert await bench.entries() == ["1", "2"]


async def test_a_batch_that_is_sent_again_gets_the_same_answer_and_changes_nothing(
    client: Client, bench: Bench, names: Names
) -> None:
    batch = [envelope(names(), Book("b", "2"))]
    assert await client.send(*batch) == await client.send(*batch)
    assert await bench.entries() == ["2"]


async def test_single_events_are_taken_in_structured_and_in_binary_mode(
    client: Client, bench: Bench, names: Names
) -> None:
    structured, binary = envelope(names(), Noted("a", "1")), envelope(names(), Noted("ä b", "2"))
    answer = await client.post(to_structured(structured), f"{STRUCTURED}; charset=utf-8")
    assert replies_from_batch(answer.content, [structured.id]) == [DONE]
    headers, body = to_binary(binary)
    answer = await client.post(body, headers.pop("content-type"), headers=headers)
    assert replies_from_batch(answer.content, [binary.id]) == [DONE]
    assert await bench.entries() == ["1", "2"]


async def test_an_empty_batch_is_answered_with_an_empty_one(client: Client) -> None:
    assert await client.send() == []


async def test_what_the_orchestrator_says_of_its_sagas_reaches_the_inbox(
    client: Client, bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[EndedSagas | None] = []
    receive = bench.inbox.receive

    async def listen(envelopes: Sequence[Envelope], settled: EndedSagas | None = None) -> Any:
        heard.append(settled)
        return await receive(envelopes, settled)

    monkeypatch.setattr(bench.inbox, "receive", listen)
    live, before = names(), names()
    settled = EndedSagas(before, frozenset({live}))
    note = envelope(names(), Noted("a"))
    await client.send(note, headers={SETTLED_HEADER: settled.to_header()})
    await client.send(note)
    assert heard == [settled, None]


@pytest.mark.parametrize("mode", ["batch", "structured", "binary"])
async def test_a_message_above_the_limit_is_rejected_in_every_mode(
    client: Client, bench: Bench, names: Names, mode: str
) -> None:
    data = sized(names(), MAX_MESSAGE_BYTES + 1)
    (reply,) = await in_mode(client, data, mode)
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "too-large")
    assert "262145 bytes when encoded, and the limit is 262144" in str(reply.reason)
    (reply,) = await in_mode(client, sized(names(), MAX_MESSAGE_BYTES), mode)
    assert reply == DONE
    assert len(await bench.entries()) == 1


async def test_the_blanks_of_a_foreign_writer_do_not_count(
    client: Client, bench: Bench, names: Names
) -> None:
    message = sized(names(), 1000)
    spaced = replace(message, data=message.data + b" " * MAX_MESSAGE_BYTES)
    assert await in_mode(client, spaced, "binary") == [DONE]


async def test_of_a_batch_only_the_message_above_the_limit_is_rejected(
    client: Client, bench: Bench, names: Names
) -> None:
    batch = [
        envelope(names(), Noted("a", "1")),
        sized(names(), 300_000),
        envelope(names(), Noted("a", "2")),
    ]
    replies = await client.send(*batch)
    assert [it.outcome for it in replies] == [Outcome.DONE, Outcome.REJECTED, Outcome.DONE]
    assert await bench.entries() == ["1", "2"]


@pytest.mark.parametrize("mode", ["batch", "structured", "binary"])
async def test_a_message_with_two_members_of_one_name_is_refused(
    client: Client, bench: Bench, names: Names, mode: str
) -> None:
    doubled = replace(
        envelope(names(), Noted("a")), data=b'{"account":"a","entry":"1","entry":"2"}'
    )
    answer = await post_in_mode(client, doubled, mode)
    assert "two members 'entry'" in assert_problem(answer, 400, "malformed-envelope")["detail"]
    assert await bench.states() == {}


@pytest.mark.parametrize("mode", ["batch", "structured", "binary"])
async def test_an_integer_that_no_database_holds_is_rejected(
    client: Client, bench: Bench, names: Names, mode: str
) -> None:
    data = b'{"account":"a","entry":"1","number":%d}' % (2**63)
    (reply,) = await in_mode(client, replace(envelope(names(), Noted("a")), data=data), mode)
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "invalid")
    assert "9223372036854775808 is beyond 64 bits" in str(reply.reason)
    assert await bench.states() == {}


# --- Who is not --------------------------------------------------------------------------------


async def test_a_request_without_a_signature_is_not_let_in(
    client: Client, bench: Bench, names: Names
) -> None:
    body = to_batch([envelope(names(), Noted("a"))])
    answer = await client.http.post("/messages", content=body, headers={"content-type": BATCH})
    assert "Sagabox-Signature" in assert_problem(answer, 401, "untrusted-request")["next_step"]
    assert await bench.states() == {}


async def test_a_request_that_was_altered_is_not_let_in(
    client: Client, bench: Bench, names: Names
) -> None:
    body = to_batch([envelope(names(), Noted("a", "1"))])
    headers = {SETTLED_HEADER: names()}
    other = EndedSagas(names()).to_header()
    for answer in [
        await client.post(body, content=body.replace(b'"1"', b'"2"')),
        await client.post(body, url="/messages?and=more"),
        await client.post(body, headers=headers, later={SETTLED_HEADER: other}),
        await client.post(body, later={"content-type": STRUCTURED}),
        await client.post(body, keys=Keyring({"now": os.urandom(32)}, "now")),
        await client.post(body, keys=Keyring({"old": os.urandom(32)}, "old")),
    ]:
        assert_problem(answer, 401, "untrusted-request")
    assert await bench.states() == {}


async def test_an_old_request_is_not_let_in(client: Client, bench: Bench, names: Names) -> None:
    body = to_batch([envelope(names(), Noted("a"))])
    signed = sign(
        KEYS,
        method="POST",
        target="/messages",
        headers={"content-type": BATCH},
        body=body,
        now=bench.clock.now(),
    )
    bench.clock.advance(301)
    headers = {"content-type": BATCH, **signed}
    answer = await client.http.post("/messages", content=body, headers=headers)
    assert_problem(answer, 401, "untrusted-request")


async def test_the_query_string_is_signed_as_it_is_sent(client: Client, names: Names) -> None:
    assert await client.send(envelope(names(), Noted("a")), target="/messages?a=%20b&c") == [DONE]


async def test_nothing_of_a_request_is_believed_before_its_signature(client: Client) -> None:
    assert_problem(
        await client.post(b"no json", later={"sagabox-signature": "0" * 64}),
        401,
        "untrusted-request",
    )


# --- Bad input ---------------------------------------------------------------------------------


async def test_a_malformed_event_is_named_with_its_position_and_nothing_is_used(
    client: Client, bench: Bench, names: Names
) -> None:
    events = json.loads(to_batch([envelope(names(), Noted("a")) for _ in range(3)]))
    del events[1]["partitionkey"]
    answer = await client.post(json.dumps(events).encode())
    problem = assert_problem(answer, 400, "malformed-envelope")
    assert "'partitionkey' of event 1 of the batch" in problem["detail"]
    assert await bench.states() == {}


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"7", b"\xff", b'[{"data":1e999}]'])
async def test_a_body_that_is_no_batch_is_refused(client: Client, body: bytes) -> None:
    assert_problem(await client.post(body), 400, "malformed-envelope")


async def test_a_statement_about_sagas_that_makes_no_sense_is_no_messages_fault(
    client: Client, bench: Bench, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    note = envelope(names(), Noted("a"))
    assert await client.send(note, headers={SETTLED_HEADER: "yesterday"}) == [DONE]
    assert f"the header {SETTLED_HEADER} is not understood" in caplog.text


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [
        (None, {}),
        ("text/plain", {}),
        ("application/json", {}),
        (BATCH, {"content-encoding": "gzip"}),
    ],
)
async def test_a_content_type_that_is_not_understood_is_refused(
    client: Client, content_type: str | None, headers: dict[str, str]
) -> None:
    answer = await client.post(b"[]", content_type, headers=headers)
    problem = assert_problem(answer, 415, "unsupported-content")
    assert STRUCTURED in problem["next_step"]


async def test_a_body_that_announces_too_much_is_not_read(bench: Bench) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"x" * 100

    client = Client(bench, max_body=1000)
    answer = await client.post(b"", content=endless(), later={"content-length": "100000"})
    assert_problem(answer, 413, "body-too-large")
    assert answer.headers["connection"] == "close"
    assert read == 0
    answer = await client.post(b"", content=endless())
    assert_problem(answer, 413, "body-too-large")
    assert read <= 12, "reading stops at the limit"


async def test_a_batch_of_too_many_messages_is_refused(bench: Bench, names: Names) -> None:
    client = Client(bench, max_messages=3)
    batch = [envelope(names(), Noted("a")) for _ in range(4)]
    problem = assert_problem(await client.post(to_batch(batch)), 413, "too-many-messages")
    assert "4 messages, and 3 are allowed" in problem["detail"]
    assert await client.send(*batch[:3]) == [DONE] * 3
    assert len(await bench.states()) == 3


async def test_a_body_that_does_not_come_is_given_up(
    bench: Bench,
) -> None:

    async def stalled() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.Event().wait()

    answer = await Client(bench, read_within=0.05).post(b"", content=_Streamed(stalled()))
    assert_problem(answer, 408, "body-too-slow")


class _Streamed(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk


# --- Helpers ------------------------------------------------------------------------------------


def sized(id: str, size: int) -> Envelope:
    """A note whose data has `size` bytes."""
    head, tail = b'{"account":"a","ballast":"', b'"}'
    data = head + b"x" * (size - len(head) - len(tail)) + tail
    return replace(envelope(id, Noted("a")), data=data)


async def post_in_mode(client: Client, message: Envelope, mode: str) -> httpx.Response:
    match mode:
        case "batch":
            return await client.post(to_batch([message]))
        case "structured":
            return await client.post(to_structured(message), STRUCTURED)
        case _:
            headers, body = to_binary(message)
            return await client.post(body, headers.pop("content-type"), headers=headers)


async def in_mode(client: Client, message: Envelope, mode: str) -> list[Reply]:
    answer = await post_in_mode(client, message, mode)
    assert answer.status_code == 200, answer.text
    return replies_from_batch(answer.content, [message.id])


async def test_a_command_whose_answer_is_to_go_to_another_name_does_not_run(
    client: Client, bench: Bench, names: Names
) -> None:
    """The answer goes back on the same way, to the sender; so the wish would be ignored."""
    foreign = envelope(names(), Book("a"), reply_to="articles")
    own = envelope(names(), Book("b", "own"), reply_to="sender")
    answer = await client.post(to_batch([foreign, own]))
    rejected, done = replies_from_batch(answer.content, [foreign.id, own.id])
    assert (rejected.outcome, rejected.code) == (Outcome.REJECTED, "invalid")
    assert "sender wants the answer to go to articles" in (rejected.reason or "")
    assert done.outcome is Outcome.DONE
    assert await bench.entries() == ["own"]


# --- Clocks ------------------------------------------------------------------------------------


async def test_a_sender_whose_clock_is_off_is_told_of_once_and_its_messages_are_taken(
    bench: Bench, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    skews: list[tuple[str, float]] = []
    client = Client(bench, skewed=lambda sender, seconds: skews.append((sender, seconds)))
    client_clock = client._clock
    client._clock = FakeClock(bench.clock.now() + timedelta(seconds=90))
    for _ in range(2):
        assert await client.send(envelope(names(), Noted("a"))) == [DONE]
    assert skews == [("sender", 90.0)] * 2
    warnings = [it.getMessage() for it in caplog.records if "the clock of" in it.getMessage()]
    assert warnings == [
        "the clock of sender is 90 s ahead of the one here; beyond 300 s its messages are refused"
    ]
    client._clock = client_clock
    await client.send(envelope(names(), Noted("a")))
    assert skews[-1] == ("sender", 0.0)
    client._clock = FakeClock(bench.clock.now() - timedelta(seconds=40))
    await client.send(envelope(names(), Noted("a")))
    assert "is 40 s behind the one here" in caplog.text
