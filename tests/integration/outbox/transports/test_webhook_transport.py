"""Events on their way to a real subscriber: requests, answers, and where they may go."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpcore
import pytest

from outbox import InvalidWebhook, Webhook
from outbox.clock import SystemClock
from outbox.replies import Outcome
from outbox.testing import FakeClock
from outbox.transports import Answered, Delivery, Unreachable, WebhookTransport
from outbox.transports.http.signing import Keyring, verify
from outbox.transports.webhooks import posting
from outbox.transports.webhooks.answers import LONGEST_WAIT
from outbox.transports.webhooks.posting import READ_UP_TO
from outbox.wire.envelope import Envelope, from_binary, from_structured
from tests.support.checkout import CERTIFICATE
from tests.support.http.servers import Exchange, scripted
from tests.support.outbox.relays import message
from tests.support.outbox.subscribers import KEY, SECRET, Subscriber, is_signed, subscribed
from tests.support.processes.waiting import BUSY, RARELY, free_port

DONE, FAILED, LEFT = Outcome.DONE, Outcome.FAILED, Outcome.NOT_ATTEMPTED


def events(*keys: str) -> list[Envelope]:
    return [message(key)[1] for key in keys]


def outcomes(delivery: Delivery) -> list[Outcome]:
    assert isinstance(delivery, Answered), delivery
    return [reply.outcome for reply in delivery.replies]


async def deliver(url: str, envelopes: list[Envelope], **options: object) -> Delivery:
    """One delivery to that address."""
    with subscribed(url, **options) as hook:
        transport = WebhookTransport(
            hook, source="articles", clock=SystemClock(), timeout=10 * BUSY
        )
    try:
        return await transport.deliver(envelopes)
    finally:
        await transport.aclose()


async def test_an_event_is_one_signed_structured_cloudevent_under_its_own_id() -> None:
    (event,) = events("k")
    async with Subscriber().serving() as subscriber:
        assert outcomes(await deliver(f"{subscriber.url}?token=t0p", [event])) == [DONE]
        assert subscriber.server is not None
        (request,) = subscriber.server.requests
    assert request.target == "/hook?token=t0p"
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["webhook-id"] == event.id
    assert request.headers["user-agent"] == "sagabox (articles)"
    assert from_structured(request.body) == event
    assert not [name for name in request.headers if name.startswith("sagabox-")]


async def test_in_binary_mode_the_body_is_the_data_and_the_attributes_are_headers() -> None:
    (event,) = events("k")
    seen = []

    async def script(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.answer(202)

    async with scripted(script) as server:
        assert outcomes(await deliver(server.address, [event], mode="binary")) == [DONE]
    (request,) = seen
    assert request.body == event.data
    assert from_binary(request.headers, request.body) == event
    assert is_signed(request.headers, request.body)


async def test_a_batch_has_an_id_of_its_own_which_is_the_same_when_it_is_sent_again() -> None:
    batch = events("a", "b", "a", "c", "c")
    async with Subscriber(statuses={"a": [500]}).serving() as subscriber:
        for _ in range(2):
            await deliver(subscriber.url, batch, mode="batch", batch=3)
        assert subscriber.server is not None
        requests = subscriber.server.requests
    assert [len(json.loads(it.body)) for it in requests] == [3, 3, 2]
    assert requests[0].headers["webhook-id"] == requests[1].headers["webhook-id"]
    assert requests[1].headers["webhook-id"] != requests[2].headers["webhook-id"]
    assert requests[0].headers["content-type"] == "application/cloudevents-batch+json"


async def test_what_a_subscriber_refuses_of_a_batch_is_found_and_the_rest_is_taken() -> None:
    keys = ["a", "b", "bad", "c", "bad", "d"]
    async with Subscriber(statuses={"bad": [422] * 9}).serving() as subscriber:
        delivery = await deliver(subscriber.url, events(*keys), mode="batch")
    assert outcomes(delivery) == [DONE, DONE, FAILED, DONE, LEFT, DONE]


@pytest.mark.parametrize(("seconds", "size"), [(0.35, 100), (2.1, 100), (2.1, 2)])
async def test_a_batch_that_is_refused_slowly_is_divided_over_several_deliveries(
    seconds: float, size: int
) -> None:
    clock, sizes = FakeClock(), []

    async def script(exchange: Exchange) -> None:
        keys = [it["partitionkey"] for it in json.loads(exchange.request.body)]
        sizes.append(len(keys))
        if "bad" in keys:
            clock.advance(seconds)
        await exchange.answer(400 if "bad" in keys else 204)

    waiting = events("bad", *(f"good-{it}" for it in range(size - 1)))
    async with scripted(script) as server:
        with subscribed(server.address, mode="batch", batch=size) as hook:
            transport = WebhookTransport(hook, source="articles", clock=clock, timeout=4.0)
        found: list[Outcome] = []
        deliveries = 0
        while deliveries < 8 and FAILED not in found:
            found = outcomes(await transport.deliver(waiting))
            deliveries += 1
            assert found[0] is FAILED or set(found) == {LEFT}, "nothing is passed over"
            # Others' batches, which are taken at once, must not make this one's large again.
            for _ in range(8):
                assert set(outcomes(await transport.deliver(events(*"xyz")))) == {DONE}
        assert FAILED in found, f"after {deliveries} deliveries it is not alone yet: {sizes}"
        assert outcomes(await transport.deliver(events(*"x" * size))) == [DONE] * size
        await transport.aclose()
    assert deliveries > 1, "one delivery had no time for it"
    assert sizes[-1] == size, "once it is found, batches are whole again"


async def test_a_batch_whose_division_ends_in_trouble_is_smaller_the_next_time() -> None:
    waiting = events("bad", "good")
    async with Subscriber(statuses={"bad": [400, 500, 400]}).serving() as subscriber:
        with subscribed(subscriber.url, mode="batch") as hook:
            transport = WebhookTransport(hook, source="articles", clock=FakeClock())
        assert isinstance(await transport.deliver(waiting), Unreachable)
        subscriber.tried.clear()
        assert outcomes(await transport.deliver(waiting)) == [FAILED, DONE]
        await transport.aclose()
    assert subscriber.tried == [(it.key, it.id) for it in waiting], "each was sent once, alone"


async def test_a_batch_to_a_wrong_address_is_not_divided() -> None:
    async with Subscriber(statuses={"a": [404]}).serving() as subscriber:
        delivery = await deliver(subscriber.url, events("a", "b", "a"), mode="batch")
        assert len(subscriber.tried) == 3
    assert outcomes(delivery) == [FAILED, FAILED, LEFT]


async def test_a_refused_event_holds_its_key_and_no_other() -> None:
    statuses = {"bad": [400]}
    async with Subscriber(statuses=statuses).serving() as subscriber:
        delivery = await deliver(subscriber.url, events("bad", "good", "bad", "good"))
        assert [key for key, _ in subscriber.tried].count("bad") == 1
    assert outcomes(delivery) == [FAILED, DONE, LEFT, DONE]


async def test_our_own_signature_comes_beside_where_its_keys_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "one:" + base64.b64encode(b"k" * 32).decode()
    monkeypatch.setenv("OUR_KEYS", text)
    async with Subscriber().serving() as subscriber:
        url = f"{subscriber.url}?a=b"
        await deliver(url, events("k"), sagabox_keys="env:OUR_KEYS")
        assert subscriber.server is not None
        (request,) = subscriber.server.requests
    signed_with = verify(
        Keyring.from_text(text),
        method="POST",
        target=request.target,
        headers=request.headers,
        body=request.body,
        now=SystemClock().now(),
    )
    assert signed_with == "one"
    assert is_signed(request.headers, request.body)


async def test_several_secrets_sign_while_one_is_changed(tmp_path: Path) -> None:
    place = tmp_path / "secrets"
    new = b"the new secret has many bytes"
    place.write_text(f"{SECRET}\nwhsec_{base64.b64encode(new).decode()}\n")
    seen = []

    async def script(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.answer(200)

    async with scripted(script) as server:
        hook = Webhook(server.address, secret=f"file:{place}", private=True)
        transport = WebhookTransport(hook, source="articles", clock=SystemClock())
        await transport.deliver(events("k"))
        await transport.aclose()
    (request,) = seen
    assert is_signed(request.headers, request.body, KEY)
    assert is_signed(request.headers, request.body, new)


async def test_a_redirect_is_not_followed() -> None:
    async with Subscriber().serving() as other:

        async def script(exchange: Exchange) -> None:
            await exchange.answer(307, location=other.url)

        async with scripted(script) as server:
            delivery = await deliver(server.address, events("k"))
        assert other.tried == []
    assert isinstance(delivery, Answered)
    (reply,) = delivery.replies
    assert reply.outcome is FAILED
    assert "redirects are not followed" in (reply.reason or "")


async def test_a_huge_answer_is_cut_off_and_its_status_counts() -> None:
    sent = []

    async def script(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        try:
            for _ in range(1000):
                await exchange.write(b"x" * 100_000)
                sent.append(1)
        except ConnectionError:
            exchange.close()

    async with scripted(script) as server:
        assert outcomes(await deliver(server.address, events("k"))) == [DONE]
    assert len(sent) * 100_000 < 200 * READ_UP_TO, "most of it was never read"


@pytest.mark.parametrize(
    ("timeout", "read_for"), [(10 * BUSY, 0.1), (2.0, RARELY)], ids=["long", "short"]
)
async def test_an_answer_that_never_ends_counts_by_its_status(
    timeout: float, read_for: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its own time is over first, or that of the delivery."""
    monkeypatch.setattr(posting, "READ_FOR", read_for)

    async def script(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx")
        await asyncio.Event().wait()

    async with scripted(script) as server:
        with subscribed(server.address) as hook:
            clock = SystemClock()
            transport = WebhookTransport(hook, source="articles", clock=clock, timeout=timeout)
        assert outcomes(await transport.deliver(events("k"))) == [DONE]
        await transport.aclose()


async def test_a_subscriber_that_is_not_there_is_unreachable_and_nothing_has_left() -> None:
    delivery = await deliver(f"http://127.0.0.1:{free_port()}/hook?t=secret", events("k"))
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "secret" not in delivery.reason


async def test_trouble_after_a_part_was_taken_leaves_the_rest_as_it_was() -> None:
    async with Subscriber(statuses={"down": [500]}).serving() as subscriber:
        delivery = await deliver(subscriber.url, events("up", "down", "down", "up"), at_once=1)
    assert outcomes(delivery) == [DONE, Outcome.ONGOING, LEFT, DONE]


async def test_410_is_told_at_once_or_right_after_what_was_taken() -> None:
    async with Subscriber(statuses={"b": [410]}).serving() as subscriber:
        with subscribed(subscriber.url, at_once=1) as hook:
            transport = WebhookTransport(hook, source="articles", clock=SystemClock())
        first = await transport.deliver(events("a", "b"))
        told = await transport.deliver(events("b"))
        assert len(subscriber.tried) == 2, "it is not asked again to be told"
        later = await transport.deliver(events("b"))
        await transport.aclose()
    assert outcomes(first) == [DONE, Outcome.ONGOING]
    assert isinstance(told, Unreachable)
    assert told.gone
    assert outcomes(later) == [DONE], "a resumed destination is asked"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_subscriber_that_asks_for_a_pause_is_not_asked_before_its_end(status: int) -> None:
    clock = FakeClock()
    statuses = {"k": [(status, {"retry_after": "120"})]}
    async with Subscriber(statuses=statuses).serving() as subscriber:
        with subscribed(subscriber.url) as hook:
            transport = WebhookTransport(hook, source="articles", clock=clock)
        waits = [await transport.deliver(events("k"))]
        clock.advance(119)
        waits.append(await transport.deliver(events("k")))
        assert len(subscriber.tried) == 1
        clock.advance(1)
        done = await transport.deliver(events("k"))
        await transport.aclose()
    assert [(it.retry_after, it.sent) for it in waits if isinstance(it, Unreachable)] == [
        (120.0, False),
        (1.0, False),
    ]
    assert outcomes(done) == [DONE]
    assert LONGEST_WAIT >= 120


async def test_what_does_not_fit_into_the_time_stays_and_what_was_taken_counts() -> None:
    clock = FakeClock()

    async def script(exchange: Exchange) -> None:
        clock.advance(1.5)
        await exchange.answer(204)

    async with scripted(script) as server:
        with subscribed(server.address) as hook:
            transport = WebhookTransport(hook, source="articles", clock=clock, timeout=4.0)
        delivery = await transport.deliver(events(*"kkkk"))
        await transport.aclose()
    assert outcomes(delivery) == [DONE, DONE, LEFT, LEFT]


async def test_different_keys_go_side_by_side_and_no_more_than_were_allowed() -> None:
    under_way, most = 0, 0
    everybody = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            everybody.set()
        await everybody.wait()
        under_way -= 1
        await exchange.answer(204)

    async with scripted(script) as server:
        delivery = await deliver(server.address, events(*"abcdefabc"), at_once=3)
    assert outcomes(delivery) == [DONE] * 9
    assert most == 3


async def test_a_name_that_leads_to_this_machine_is_refused_when_it_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)

    async def resolved(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", ("127.0.0.1", 443))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    hook = Webhook("https://rebound.example/hook", secret="env:A_SECRET")
    transport = WebhookTransport(hook, source="articles", clock=SystemClock())
    delivery = await transport.deliver(events("k"))
    await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "private=yes" in delivery.reason


async def test_the_address_that_was_looked_up_and_found_public_is_the_one_that_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)
    # Stands for a public address: a test connects to none.
    monkeypatch.setattr(posting, "is_public", lambda address: str(address) == "127.0.0.1")
    asked: list[object] = []
    seen = []

    async def resolved(host: object, port: object, **_: object) -> list[object]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async def script(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.answer(204)

    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    trusting.check_hostname = False
    async with scripted(script, tls=server_side) as server:
        port = server.address.rpartition(":")[2]
        hook = Webhook(f"https://subscriber.example:{port}/hook", secret="env:A_SECRET")
        clock = SystemClock()
        transport = WebhookTransport(hook, source="articles", clock=clock, tls=trusting)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        delivery = await transport.deliver(events("k"))
        await transport.aclose()
    assert outcomes(delivery) == [DONE]
    assert asked == ["subscriber.example"]
    assert seen[0].headers["host"] == f"subscriber.example:{port}"


async def test_a_certificate_that_is_not_the_subscribers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)

    async def script(exchange: Exchange) -> None:
        raise AssertionError("no request comes that far")

    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(CERTIFICATE)
    async with scripted(script, tls=server_side) as server:
        hook = Webhook(server.address, secret="env:A_SECRET", private=True)
        transport = WebhookTransport(hook, source="articles", clock=SystemClock())
        delivery = await transport.deliver(events("k"))
        await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert not delivery.sent
    assert "certificate" in delivery.reason.lower()


async def test_a_slow_subscriber_is_waited_for_and_then_counts_as_silent() -> None:
    async def script(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with scripted(script) as server:
        with subscribed(server.address) as hook:
            clock = SystemClock()
            transport = WebhookTransport(hook, source="articles", clock=clock, timeout=1.0)
        delivery = await transport.deliver(events("k", "l"))
        await transport.aclose()
    assert isinstance(delivery, Unreachable)
    assert delivery.sent, "it may have taken it"
    assert "did not answer within 0.9 s" in delivery.reason


def test_secrets_that_cannot_be_read_are_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAD", "whsec_!")
    for options, problem in (
        ({"secret": "env:NOT_SET_ANYWHERE"}, "env:NOT_SET_ANYWHERE is not there"),
        ({"secret": "env:BAD"}, "secret 1 of env:BAD is not base64"),
        ({"secret": "env:GOOD", "sagabox_keys": "env:BAD"}, "sagabox_keys=env:BAD"),
    ):
        monkeypatch.setenv("GOOD", SECRET)
        hook = Webhook("https://a.example/", **options)  # type: ignore[arg-type]  # each is one of its options
        with pytest.raises(InvalidWebhook, match=problem):
            WebhookTransport(hook, source="articles", clock=SystemClock())
    assert SECRET not in repr(hook)
    assert os.environ["GOOD"] == SECRET


class _Road(httpcore.AsyncNetworkBackend):
    """Where only some addresses answer, and a connection to another one takes all of its time."""

    def __init__(self, *answering: str) -> None:
        self._answering = answering
        self.asked: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        if host in self._answering:
            return httpcore.AsyncMockStream([])
        if timeout is None:
            await asyncio.Event().wait()
        raise httpcore.ConnectTimeout


async def test_an_address_that_says_nothing_leaves_time_for_the_others_of_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]

    async def addresses(*_: object) -> list[str]:
        return named

    monkeypatch.setattr(posting, "_addresses", addresses)
    monkeypatch.setattr(posting, "is_public", lambda _: True)
    road = _Road(named[2])
    async with asyncio.timeout(10 * BUSY):
        await posting._PublicOnly(road).connect_tcp("hooks.example.org", 443)
    assert road.asked == named
    # The last one has all the time that is left.
    silent = posting._PublicOnly(_Road()).connect_tcp("hooks.example.org", 443)
    connecting = asyncio.create_task(silent)
    await asyncio.wait({connecting}, timeout=0.1)
    assert not connecting.done()
    connecting.cancel()
