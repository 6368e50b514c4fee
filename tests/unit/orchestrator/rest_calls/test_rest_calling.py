"""One attempt of a REST call: what it asks, and what it makes of the answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from orchestrator import RestCall, Secret, rest
from orchestrator.rest_calls.calling import RestCalls, Result, promised
from orchestrator.rest_calls.http import Http
from orchestrator.rest_calls.kept import Kept
from orchestrator.rest_calls.meanings import MOST_BYTES, InDoubt
from orchestrator.rest_calls.secrets import SecretMissing
from outbox.inbox.handling.context import CallTimes, Context
from outbox.inbox.handling.registration import name_of
from outbox.inbox.outside.finding_out import Certain, Working
from outbox.replies import Done, Locked, Ongoing, Refused
from tests.support.orchestrator.plain_service import (
    PlainService,
    Trouble,
    acts_without_answer,
    does_nothing_and_is_gone,
    never_answers,
    said,
    says,
)
from tests.support.orchestrator.rest_attempts import (
    BASE,
    NOW,
    PROBE,
    SECONDS,
    answering,
    attempt,
    charge,
    refund,
)


async def again(
    command: RestCall[Any], service: PlainService, *, kept: Any, began: datetime
) -> Result:
    """The result of an attempt whose last one left no doubt, as others did before."""
    times = CallTimes(began, is_in_doubt=True, in_doubt_since=None)
    context = Context("c-1", "s-1", None, 4, "orchestrator", None, {}, kept, times)
    return await RestCalls(BASE, Http(service))(command, context)


def test_a_call_is_named_by_the_address_that_it_asks() -> None:
    assert name_of(RestCalls(BASE, Http(PlainService()))) == f"the request to {BASE}"


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Done(None)),
        (204, Done(None)),
        (409, Refused("http-409", "the service answered 409")),
        (422, Refused("http-422", "the service answered 422")),
        (423, Locked("the service answered 423")),
        (425, Ongoing(1.0)),
        (429, Ongoing(1.0)),
        (503, Ongoing(1.0)),
    ],
)
async def test_an_answer_means_what_its_status_says(status: int, result: object) -> None:
    assert await attempt(charge(), answering(says(status))) == result


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 405, 410, 500, 502, 504])
async def test_all_other_answers_leave_a_doubt(status: int) -> None:
    with pytest.raises(InDoubt, match=str(status)):
        await attempt(charge(), answering(says(status, location="https://pay.internal/v1/x")))


async def test_a_step_says_where_a_status_means_something_else() -> None:
    call = charge(answers={402: "refused", 503: "in-doubt", 400: "refused"})
    assert isinstance(await attempt(call, answering(says(402))), Refused)
    with pytest.raises(InDoubt):
        await attempt(call, answering(says(503)))


@pytest.mark.parametrize(
    ("pause", "seconds"),
    [
        ("7", 7.0),
        ("99999", 3600.0),
        ("Thu, 01 Jan 2026 12:00:09 GMT", 9.0),
        ("soon", 4.0),
        (f"Thu, 01 Jan 2026 12:00:09 +{'9' * 20}", 4.0),
    ],
)
async def test_a_pause_that_the_service_asks_for_is_made(pause: str, seconds: float) -> None:
    service = answering(says(503, retry_after=pause))
    assert await attempt(charge(), service, number=3) == Ongoing(seconds)


async def test_a_redirect_is_not_followed() -> None:
    service = answering(says(307, location="https://pay.internal/v1/other"))
    with pytest.raises(InDoubt, match="not followed"):
        await attempt(charge(), service)
    assert len(service.requests) == 1


async def test_an_answer_without_an_end_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(_: PlainService, __: httpx.Request) -> httpx.Response:
        class Stream(httpx.AsyncByteStream):
            async def __aiter__(self) -> Any:
                nonlocal sent
                while sent < 100 * MOST_BYTES:
                    sent += 65536
                    yield bytes(65536)

        return httpx.Response(200, stream=Stream())

    with pytest.raises(InDoubt, match="more than 1048576 bytes"):
        await attempt(charge(), answering(endless))
    assert sent < 2 * MOST_BYTES


@pytest.mark.parametrize("body", [b"<html>", b'{"a": NaN}', b'"\\u0000"', b"\xff"])
async def test_an_answer_that_is_no_json_leaves_a_doubt(body: bytes) -> None:
    async def answer(_: PlainService, __: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(body))

    with pytest.raises(InDoubt, match="no JSON"):
        await attempt(charge(), answering(answer))
    assert await attempt(charge(reply=None), answering(answer)) == Done(None)


async def test_a_service_that_does_not_answer_in_time_leaves_a_doubt() -> None:
    with pytest.raises(InDoubt, match=r"within 0\.01 s"):
        await attempt(charge(timeout=timedelta(seconds=0.01)), answering(never_answers))


# Accepted


async def test_where_the_service_tells_the_end_is_kept_before_it_is_asked() -> None:
    service = answering(says(202, location="/v1/charges/by-key/job", retry_after="3"))
    result = await attempt(charge(), service)
    assert isinstance(result, Working)
    assert (result.retry_after, result.in_doubt) == (3.0, False)
    kept = Kept.of(result.kept)
    assert (kept.polls, kept.keyed) == ("/charges/by-key/job", True)
    assert service.asked("GET") == []
    service.charges["job"] = {"id": "ch_9"}
    assert await attempt(charge(), service, kept=result.kept, number=2) == Done({"id": "ch_9"})
    assert len(service.asked("POST")) == 1
    assert promised(charge(), result.kept).only_reads


@pytest.mark.parametrize(
    "location",
    [
        "https://elsewhere.internal/v1/charges/1",
        "http://pay.internal/v1/charges/1",
        "https://pay.internal:8443/v1/charges/1",
        "https://user@pay.internal/v1/charges/1",
        "https://pay.internal/admin",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/%252e%252e/admin",
        "/v1\\..\\admin",
        "/v10/charges",
        "//elsewhere.internal/v1/charges",
        "file:///etc/passwd",
    ],
)
async def test_a_location_elsewhere_is_not_asked(location: str) -> None:
    service = answering(says(202, location=location))
    with pytest.raises(InDoubt, match="not below"):
        await attempt(charge(), service)
    assert len(service.requests) == 1


async def test_an_acceptance_without_a_location_is_asked_for_by_the_same_request() -> None:
    service = answering(says(202))
    result = await attempt(charge(), service)
    assert isinstance(result, Working)
    assert result.in_doubt
    assert isinstance(await attempt(charge(), service, kept=result.kept, number=2), Done)
    keys = [it.headers["idempotency-key"] for it in service.requests]
    assert keys == ["c-1", "c-1"]


# A doubt


async def test_a_call_without_a_key_is_looked_for_before_it_is_sent_again() -> None:
    service = answering(acts_without_answer)
    call = charge(keyed=False, probe=PROBE)
    with pytest.raises(InDoubt):
        await attempt(call, service)
    again = await attempt(call, service, number=2, doubt=NOW)
    assert again == Done({"id": "ch_1", "cents": 5})
    assert len(service.asked("POST")) == 1


async def test_nothing_counts_only_once_the_last_request_is_old_enough() -> None:
    service, call = PlainService(), charge(keyed=False, probe=PROBE)
    result = await attempt(call, service, number=2, doubt=NOW - 69 * SECONDS)
    assert isinstance(result, Working)
    assert result.retry_after == pytest.approx(1.0)
    later = NOW + 1 * SECONDS
    assert service.asked("POST") == []
    done = await attempt(call, service, number=3, kept=result.kept, began=later, doubt=None)
    assert done == Done({"id": "ch_1", "cents": 5}), "what was kept tells of the doubt"


@pytest.mark.parametrize("content", [b"", b"null", b" null "])
async def test_a_probe_that_is_answered_with_nothing_at_all_says_nothing(content: bytes) -> None:
    async def answer(_: PlainService, __: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(content))

    service, call = answering(answer, method="GET"), charge(keyed=False, probe=PROBE)
    with pytest.raises(InDoubt, match="its probe was answered 200 with no body, or with null"):
        await attempt(call, service, number=2, doubt=NOW - 71 * SECONDS)
    assert service.asked("POST") == []


@pytest.mark.parametrize("trouble", [says(404), says(410), says(204), says(200, []), says(200, {})])
async def test_a_probe_says_in_several_ways_that_nothing_is_there(trouble: Trouble) -> None:
    service, call = answering(trouble, method="GET"), charge(keyed=False, probe=PROBE)
    await attempt(call, service, number=2, doubt=NOW - 71 * SECONDS)
    assert len(service.asked("POST")) == 1


async def test_a_refusal_after_nothing_was_found_is_certain() -> None:
    service, call = answering(says(409)), charge(keyed=False, probe=PROBE)
    result = await attempt(call, service, number=2, doubt=NOW - 71 * SECONDS)
    assert isinstance(result, Certain)


@pytest.mark.parametrize(
    ("call", "may_repeat"),
    [
        (charge(), False),
        (charge(keyed=False), False),
        (charge(keyed=False, probe=PROBE), True),
        (charge(probe=PROBE), False),
        (rest("payments", "PUT /charges/{key}"), True),
        (refund(), True),
    ],
)
def test_what_may_be_sent_again_without_a_key(call: RestCall[Any], *, may_repeat: bool) -> None:
    assert promised(call, None).repeatable is may_repeat
    assert promised(call, None).keyed is call.keyed


@pytest.mark.parametrize("status", [409, 422, 423])
async def test_a_refused_repetition_says_nothing_while_the_first_request_may_run(
    status: int,
) -> None:
    service = answering(says(status), says(status))
    early = await attempt(charge(), service, number=2, doubt=NOW - 69 * SECONDS)
    assert isinstance(early, Working)
    assert early.retry_after == pytest.approx(1.0)
    later = NOW + 1 * SECONDS
    late = await again(charge(), service, kept=early.kept, began=later)
    assert isinstance(late, Refused | Locked)


async def test_a_pause_after_a_doubt_keeps_the_time_of_the_last_one() -> None:
    older = Kept({}, doubt=NOW - 100 * SECONDS).json()
    service = answering(says(503), says(409))
    waits = await attempt(charge(), service, number=3, kept=older, doubt=NOW)
    assert isinstance(waits, Working)
    refused = await again(charge(), service, kept=waits.kept, began=NOW + 1 * SECONDS)
    assert isinstance(refused, Working), "the request of attempt 2 may still run"


async def test_nothing_counts_from_the_last_acceptance_and_not_from_an_older_doubt() -> None:
    service, call = answering(says(202)), charge(keyed=False, probe=PROBE)
    older = Kept({}, doubt=NOW - 100 * SECONDS).json()
    accepted = await again(call, service, kept=older, began=NOW)
    assert isinstance(accepted, Working)
    early = await again(call, service, kept=accepted.kept, began=NOW + 5 * SECONDS)
    assert isinstance(early, Working)
    assert len(service.asked("POST")) == 1


@pytest.mark.parametrize("call", [charge(), charge(keyed=False, probe=PROBE)])
async def test_an_end_that_is_told_nowhere_any_more_is_no_more_asked_for(
    call: RestCall[Any],
) -> None:
    service = PlainService()
    polls = Kept({}, polls="/charges/by-key/job", doubt=NOW - 100 * SECONDS).json()
    result = await attempt(call, service, kept=polls, number=2)
    assert isinstance(result, Working)
    assert result.in_doubt
    kept = Kept.of(result.kept)
    assert (kept.polls, kept.doubt) == (None, None)
    service.charges["c-1"] = {"id": "ch_9"}
    found = await attempt(charge(keyed=False, probe=PROBE), service, kept=polls, number=2)
    assert found == Done({"id": "ch_9"}), "what a probe finds is there"


# Secrets


async def test_a_secret_is_sent_and_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAY_TOKEN", "s3cr3t")
    call = charge(headers={"Authorization": Secret(env="PAY_TOKEN", form="Bearer {}")})
    assert "s3cr3t" not in repr(call)

    async def echo(_: PlainService, request: httpx.Request) -> httpx.Response:
        return said(409, {"detail": f"not for {request.headers['authorization']}"})

    assert await attempt(call, answering(echo)) == Refused("http-409", "not for ***")

    async def broken(_: PlainService, request: httpx.Request) -> httpx.Response:
        return said(500, request.headers["authorization"])

    with pytest.raises(InDoubt) as error:
        await attempt(call, answering(broken))
    assert "s3cr3t" not in str(error.value)
    monkeypatch.delenv("PAY_TOKEN")
    with pytest.raises(SecretMissing, match="PAY_TOKEN"):
        await attempt(call, PlainService())


@pytest.mark.parametrize("before", range(80, 505, 5))
async def test_no_part_of_a_secret_is_left_where_a_text_is_cut(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setenv("PAY_TOKEN", "s3cr3t-of-the-shop")
    call = charge(headers={"Authorization": Secret(env="PAY_TOKEN")})
    text = f"{'x' * before}s3cr3t-of-the-shop"

    async def breaks(_: PlainService, __: httpx.Request) -> httpx.Response:
        raise httpx.ReadError(text)

    told = str(await attempt(call, answering(says(409, {"code": text, "detail": text}))))
    for trouble in (says(500, text), breaks):
        with pytest.raises(InDoubt) as error:
            await attempt(call, answering(trouble))
        told += str(error.value)
    assert "s3" not in told


async def test_nothing_of_a_broken_connection_is_taken_for_an_answer() -> None:
    with pytest.raises(InDoubt, match="no answer"):
        await attempt(charge(), answering(does_nothing_and_is_gone))
