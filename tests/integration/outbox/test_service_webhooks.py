"""`outbox.Service` and subscribers outside: what they get, and what happens when they fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox import dead_letters, destinations
from outbox.contract import StartSaga
from outbox.errors import InvalidService, InvalidWebhook, Unrouted
from outbox.messages import SagaRef
from outbox.relay.settings import RelaySettings
from outbox.retry import RetryPolicy
from outbox.tables import outbox_dead
from outbox.transports.http.peers import peers_in
from tests.support.databases.databases import Schema
from tests.support.outbox.couriers import ENDURING
from tests.support.outbox.inboxes import Book, Noted, ledger_schema
from tests.support.outbox.relays import counts
from tests.support.outbox.services import NOWHERE, client_of, make_service
from tests.support.outbox.subscribers import QUICK, SECRET, Subscriber, subscribed
from tests.support.processes.waiting import until

QUICKLY = RelaySettings(poll=0.05, **ENDURING)
"""A delivery that is waited for is not sent again meanwhile."""
CRM = "webhook+https://crm.example/hook#secret=env:CRM_SECRET"


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@dataclass
class Press:
    """A service whose events go to these subscribers, and its application, which runs."""

    service: outbox.Service
    app: FastAPI

    async def note(self, *keys: str) -> list[str]:
        """Add one event for each of these keys; their ids."""
        ids = []
        for key in keys:
            async with self.service.sessions.begin() as session:
                ids.append(outbox.add(session, Noted(key)))
        return ids

    async def get(self, path: str) -> Any:
        """The answer at that address."""
        async with client_of(self.app) as client:
            return await client.get(path)

    async def figure(self, name: str, destination: str) -> float:
        """What /metrics says of that destination."""
        text = (await self.get("/metrics")).text
        label = f'{name}{{destination="{destination}"'
        (line,) = [it for it in text.splitlines() if it.startswith(label)]
        return float(line.rpartition(" ")[2])


@asynccontextmanager
async def press(
    engine: AsyncEngine, *, retry: RetryPolicy = QUICK, **subscribers: Subscriber
) -> AsyncIterator[Press]:
    """The service with these subscribers; each gets every event."""
    async with AsyncExitStack() as stack:
        hooks = {
            name: stack.enter_context(subscribed(it.url, retry=retry))
            for name, it in subscribers.items()
        }
        service = make_service(
            engine, "press", peers=hooks, routes={Noted: list(hooks)}, relay=QUICKLY
        )
        app = FastAPI()
        service.attach(app)
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield Press(service, app)


async def test_one_event_goes_to_each_subscriber_of_its_route(engine: AsyncEngine) -> None:
    async with (
        Subscriber().serving() as one,
        Subscriber().serving() as two,
        press(engine, one=one, two=two) as it,
    ):
        ids = await it.note(*"abab")
        await until(lambda: len(one.taken) + len(two.taken) == 8, what="all have come")
    for subscriber in (one, two):
        assert subscriber.ids("a") == ids[0::2]
        assert subscriber.ids("b") == ids[1::2]


async def test_an_event_that_is_refused_holds_its_key_alone_and_dies_in_the_end(
    engine: AsyncEngine,
) -> None:
    async with (
        Subscriber(statuses={"bad": [400] * QUICK.attempts}).serving() as crm,
        press(engine, crm=crm) as it,
    ):
        ids = await it.note("bad", "good", "bad", "good")
        await until(lambda: len(crm.taken) == 3, what="all the others have come")
        assert crm.ids("good") == ids[1::2]
        assert crm.ids("bad") == [ids[2]]
        async with engine.begin() as connection:
            (dead,) = (await connection.execute(select(outbox_dead))).all()
            assert (dead.id, dead.attempts) == (ids[0], QUICK.attempts)
            assert "declined: 400" in dead.reason
            await dead_letters.redrive(connection, [dead.id])
        await until(lambda: ids[0] in crm.ids("bad"), what="it is taken when sent again")


async def test_an_event_that_always_breaks_its_subscriber_does_not_stop_the_others(
    engine: AsyncEngine,
) -> None:
    async with (
        Subscriber(statuses={"bad": [500] * 1000}).serving() as crm,
        press(engine, crm=crm) as it,
    ):
        (bad,) = await it.note("bad")
        for _ in range(4):
            ids = await it.note("good", "fine")
            await until(lambda ids=ids: ids[1] in crm.ids("fine"), what="others come")  # type: ignore[misc]  # mypy sees no default of a lambda

        async def is_dead() -> bool:
            await it.note("good")
            return bool((await counts(engine))["outbox_dead"])

        await until(is_dead, what="it is given up", deadline=60.0)
    assert bad not in crm.ids("bad")


async def test_a_subscriber_that_is_gone_is_shown_and_the_service_stays_ready(
    engine: AsyncEngine,
) -> None:
    async with Subscriber(statuses={"a": [410]}).serving() as crm, Subscriber().serving() as mail:
        async with press(engine, crm=crm, mail=mail) as it:
            ids = await it.note("a", "a")

            async def is_paused() -> bool:
                return await it.figure("sagabox_outbox_pauses", "crm") == 1

            await until(is_paused, what="the destination is paused")
            ids += await it.note("a")
            await until(lambda: mail.ids("a") == ids, what="the other one goes on")
            assert (await it.get("/readyz")).status_code == 200
            assert await it.figure("sagabox_outbox_unsent_messages", "crm") == 3
            assert await it.figure("sagabox_outbox_held_keys", "crm") == 0
            assert await it.figure("sagabox_outbox_pauses", "mail") == 0
            assert len(crm.tried) == 1
        async with press(engine, crm=crm, mail=mail) as it:
            ids += await it.note("a")
            await until(lambda: mail.ids("a") == ids, what="the other one goes on")
            assert len(crm.tried) == 1, "a restart ends no pause"
            async with engine.begin() as connection:
                await destinations.resume(connection, "crm")
            await until(lambda: crm.ids("a") == ids, what="all come, in their order")
    assert (await counts(engine))["outbox_dead"] == 0


async def test_a_subscriber_that_asks_for_a_pause_loses_no_attempt(engine: AsyncEngine) -> None:
    many = [(429, {"retry_after": "0"}), (503, {"retry_after": "0"}), 500]
    async with (
        Subscriber(statuses={"a": many}).serving() as crm,
        press(engine, retry=replace(QUICK, attempts=2), crm=crm) as it,
    ):
        ids = await it.note("a", "a")
        await until(lambda: crm.ids("a") == ids, what="both come in the end", deadline=60.0)
    assert (await counts(engine))["outbox_dead"] == 0


# What is refused


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)


@pytest.mark.databases("sqlite")
async def test_a_command_for_a_webhook_is_refused_when_it_is_added(engine: AsyncEngine) -> None:
    service = make_service(engine, peers={"bank": CRM, "crm": CRM})
    async with service.sessions.begin() as session:
        sends: list[Callable[[], str]] = [
            lambda: outbox.add(session, Book("ada")),
            lambda: outbox.add(session, Book("ada"), to="crm"),
            lambda: service.start(session, SagaRef("a"), Noted("a"), orchestrator="crm"),
        ]
        for send in sends:
            with pytest.raises(Unrouted, match="receiver answers no command") as error:
                send()
            assert "send an Event there" in error.value.next_step
        outbox.add(session, Noted("ada"), to="crm")
    assert (await counts(engine))["outbox"] == 1


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("command", [Book, StartSaga])
async def test_a_route_of_a_command_to_a_webhook_is_refused_at_once(
    engine: AsyncEngine, command: Any
) -> None:
    with pytest.raises(Unrouted, match="would go to crm, which takes events alone"):
        make_service(engine, peers={"crm": CRM}, routes={command: ["crm"]})


@pytest.mark.databases("sqlite")
async def test_a_webhook_that_cannot_be_is_refused_where_the_service_is_made(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidWebhook, match="no option 'colour'"):
        make_service(engine, peers={"crm": f"{CRM}&colour=red"})
    monkeypatch.setenv("SAGABOX_PEERS", f"bank={NOWHERE},crm={CRM}&mode=xml")
    with pytest.raises(InvalidService, match=r"SAGABOX_PEERS cannot be read: crm: .*mode"):
        make_service(engine, peers=None)
    monkeypatch.setenv("SAGABOX_PEERS", f"bank={NOWHERE},crm={CRM}")
    service = make_service(engine, peers=None, routes={Noted: ["crm", "bank"]})
    assert (dict(service.peers), list(service.webhooks)) == ({"bank": NOWHERE}, ["crm"])
    assert set(service.reached) == {"bank", "crm"}


@pytest.mark.databases("sqlite")
async def test_a_secret_that_is_not_there_is_told_at_the_start(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRM_SECRET", raising=False)
    service = make_service(engine, peers={"crm": CRM})
    with pytest.raises(InvalidWebhook, match="env:CRM_SECRET is not there") as error:
        async with service.running():
            pass
    assert error.value.next_step == "export CRM_SECRET=whsec_..."


def test_a_participant_that_is_a_webhook_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="takes events alone, and this peer gets commands"):
        peers_in(f"crm={CRM}")


@pytest.mark.databases("sqlite")
@pytest.mark.usefixtures("secret")
async def test_a_transport_that_is_given_stands_in_for_a_webhook(engine: AsyncEngine) -> None:
    class Way:
        async def deliver(self, _: Any) -> Any:
            raise AssertionError("nothing is sent")

        async def aclose(self) -> None:
            """Nothing is open."""

    way = Way()
    service = make_service(engine, peers={"crm": CRM, "b": CRM}, transports={"crm": way})
    made = service._transports(None)
    assert made["crm"] is way
    assert type(made["b"]).__name__ == "WebhookTransport"
