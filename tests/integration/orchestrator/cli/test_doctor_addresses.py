"""What `sagabox doctor` says of the addresses of peers."""

from __future__ import annotations

import sys

import pytest
from fastapi import FastAPI

from orchestrator.cli.doctor.findings import Finding, Verdict
from orchestrator.cli.doctor.peers import addresses
from outbox.clock import SystemClock
from outbox.ids import compose
from outbox.transports.brokers.opening import broker_at
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring
from tests.support.blog.blog import SECRETS
from tests.support.brokers.nats_server import a_nats_server
from tests.support.brokers.redis_server import a_redis
from tests.support.brokers.strangers import STRANGERS
from tests.support.brokers.traffic import packets
from tests.support.discovery.dns_server import name_server, zone
from tests.support.http.servers import serving
from tests.support.outbox.inboxes import Bench
from tests.support.processes.waiting import free_port

OURS, THEIRS = (compose(1_900_000_000_000, it) for it in (7, 8))
pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def bench(engine: object) -> Bench:
    return Bench(engine)  # type: ignore[arg-type]  # the fixture's engine


def _app(bench: Bench, database: str) -> FastAPI:
    app = FastAPI()
    keys, clock = Keyring.from_text(SECRETS), SystemClock()
    app.include_router(receiver(bench.inbox, keys=keys, clock=clock, database=lambda: database))
    return app


def _said(findings: list[Finding], verdict: Verdict) -> str:
    return "\n".join(it.told for it in findings if it.verdict is verdict)


async def test_each_address_is_asked_and_told_with_its_database(bench: Bench) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with serving(_app(bench, OURS)) as one, serving(_app(bench, THEIRS)) as other:
        found = await addresses(
            {"SAGABOX_PEERS": f"bank={one},{other},{away}", "SAGABOX_SECRETS": SECRETS}
        )
    assert {it.about for it in found} == {"bank"}
    told = _said(found, Verdict.OK)
    assert f"{one} works on the database {OURS}" in told
    assert f"{other} works on the database {THEIRS}" in told
    assert f"{away} is not usable" in _said(found, Verdict.WARNING)
    assert "its addresses work on 2 databases" in _said(found, Verdict.PROBLEM)


async def test_a_single_address_is_asked_too(bench: Bench) -> None:
    """A wrong port or prefix among the peers is the commonest mistake."""
    away = f"http://127.0.0.1:{free_port()}"
    async with serving(_app(bench, OURS)) as there:
        peers = f"bank={there},mail={there}/mail,crm={away}"
        found = await addresses({"SAGABOX_PEERS": peers, "SAGABOX_SECRETS": SECRETS})
        assert await addresses({"SAGABOX_PEERS": peers}) == []
    by_name = {it.about: it for it in found}
    assert [it.verdict for it in found] == [Verdict.OK, Verdict.PROBLEM, Verdict.PROBLEM]
    assert by_name["bank"].told == f"{there} works on the database {OURS}"
    assert "404 Not Found" in by_name["mail"].told
    assert by_name["crm"].told.startswith(f"{away} is not usable")
    assert by_name["crm"].next_step == "start it, or correct its address"


async def test_webhooks_and_plain_http_services_in_the_lists_hide_no_other_peer() -> None:
    two = f"http://127.0.0.1:{free_port()},http://127.0.0.1:{free_port()}"
    found = await addresses(
        {
            "SAGABOX_PEERS": f"crm=webhook+https://crm.test/in#secret=env:CRM,bank={two}",
            "SAGABOX_PARTICIPANTS": f"pay=rest+https://pay.test/v1,stock={two}",
        }
    )
    assert {it.about for it in found} == {"bank", "stock"}


async def test_a_name_that_finds_no_address_is_a_problem_with_its_reason() -> None:
    async with name_server(zone({})) as server:
        text = f"bank=http+dns://bank.test:80?server={server.address}"
        (found,) = await addresses({"SAGABOX_PARTICIPANTS": text})
    assert found.verdict is Verdict.PROBLEM
    assert "does not know the name bank.test" in found.told
    assert found.next_step


async def test_without_secrets_the_addresses_are_told_and_nothing_is_asked() -> None:
    records = {("bank.test", "A"): ["127.0.0.1", "127.0.0.2"]}
    async with name_server(zone(records)) as server:
        text = f"bank=http+dns://bank.test:8002?server={server.address}"
        (found,) = await addresses({"SAGABOX_PEERS": text})
    assert found.verdict is Verdict.WARNING
    assert "has 2 addresses: " in found.told
    assert "http://127.0.0.2:8002" in found.told


async def test_a_broker_is_asked_and_told_with_what_waits() -> None:
    with a_nats_server() as server:
        client = broker_at(server.url())
        await client.publish("bank", packets(3))
        await client.aclose()
        answers = await addresses({"SAGABOX_PEERS": f"bank={server.url(access='me:hidden')}"})
    assert "answers; 3 packets wait in the queue bank" in _said(answers, Verdict.OK)
    away = await addresses({"SAGABOX_PEERS": f"bank={server.url(access='me:hidden')}"})
    told = _said(away, Verdict.PROBLEM)
    assert "nats at 127.0.0.1" in told
    assert "hidden" not in told


async def test_a_topic_of_others_is_asked_for_and_told_where_it_is_missing() -> None:
    async with STRANGERS["nats"]() as stranger:
        ((host, port),) = stranger.topic.address.servers
        peers = f"others=topic+nats://{host}:{port}/{stranger.topic.name}"
        (missing,) = await addresses({"SAGABOX_PEERS": peers})
        await stranger.make()
        (there,) = await addresses({"SAGABOX_PEERS": peers})
    (away,) = await addresses({"SAGABOX_PEERS": peers})
    assert [it.verdict for it in (missing, there, away)] == [
        *(Verdict.PROBLEM, Verdict.OK, Verdict.PROBLEM)
    ]
    assert "no stream of JetStream has the subject" in missing.told
    assert "ask its owner" in (missing.next_step or "")
    assert there.told == f"{stranger.topic} is there"
    assert "is away" in away.told


async def test_a_broker_is_named_once() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    for kind, scheme in (("redis", "redis"), ("nats", "nats"), ("kafka", "kafka")):
        (away,) = await addresses({"SAGABOX_PEERS": f"bank={scheme}://{nowhere}"})
        assert away.told.startswith(f"{kind} at {nowhere}")
        assert away.told.count(" at 127.0.0.1") == 1, away.told
        assert away.told.count("is away") == 1, away.told
    async with a_redis(durable=False) as server:
        (refused,) = await addresses({"SAGABOX_PEERS": f"bank={server.url()}"})
    assert refused.told.count("redis at ") == 1
    assert refused.told.startswith("redis at ")


async def test_a_topic_whose_library_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats", None)
    (found,) = await addresses({"SAGABOX_PEERS": "others=topic+nats://127.0.0.1:4222/orders"})
    assert found.verdict is Verdict.PROBLEM
    assert "sagabox[nats]" in (found.next_step or "")
