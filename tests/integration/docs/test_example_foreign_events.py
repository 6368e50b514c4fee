"""`examples/foreign_events` and its page: a shop behind each broker, and a partner without
Sagabox."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType

import httpx
import pytest
from sqlalchemy import Connection

from outbox.tables import metadata
from outbox.transports.brokers.address import KINDS
from outbox.transports.brokers.topics.topic import Topic, topics_in
from outbox.transports.http.peers import peers_in
from tests.support.brokers.nats_server import a_nats_server
from tests.support.brokers.strangers import STRANGERS, AtKafka
from tests.support.checkout import ROOT
from tests.support.fixtures import DatabaseFactory
from tests.support.outbox.services import SECRETS, client_of
from tests.support.processes.waiting import until
from tests.support.repository.manual import blocks, rows

PAGE = "docs/guide/brokers.md"
FOLDER = ROOT / "examples" / "foreign_events"


@dataclass
class Example:
    """The shop and its stock, which run."""

    shop: httpx.AsyncClient
    stock: httpx.AsyncClient

    async def place(self, order: str) -> None:
        """Place an order of a lamp."""
        answer = await self.shop.post(f"/orders/{order}", params={"item": f"lamp {order}"})
        answer.raise_for_status()

    async def has_packed(self, *orders: str) -> bool:
        """Whether stock has packed exactly these, in their order."""
        return bool((await self.stock.get("/packed")).json() == [f"lamp {it}" for it in orders])

    async def has_status(self, order: str, status: str) -> bool:
        """Whether that is the status of the order."""
        return bool((await self.shop.get(f"/orders/{order}")).json() == {"status": status})


@asynccontextmanager
async def example(
    settings: Mapping[str, str], make: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Example]:
    """The two services, each with a database of its own, and with these settings."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(_running(name, make, monkeypatch))
            for name in ("stock", "shop")
        ]
        yield Example(clients[1], clients[0])
    for name in [it for it in sys.modules if it.split(".")[0] == "foreign_events"]:
        del sys.modules[name]


@asynccontextmanager
async def _running(
    name: str, make: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    module: ModuleType

    def tables(connection: Connection) -> None:
        metadata.create_all(connection)

    database = make(tables)
    monkeypatch.setenv(f"{name.upper()}_DATABASE_URL", database.url)
    if name == "shop":
        # Only stock reads a queue.
        monkeypatch.delenv("SAGABOX_BROKER")
    module = import_module(f"foreign_events.{name}")
    async with module.engine.begin() as connection:
        await connection.run_sync(module.metadata.create_all)
    async with module.app.router.lifespan_context(module.app), client_of(module.app) as client:
        yield client
    await module.engine.dispose()


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("kind", STRANGERS)
async def test_an_order_goes_through_each_broker_and_a_parcel_comes_back(
    kind: str, database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with STRANGERS[kind]() as partner:
        await partner.make()
        options = f"prefix={os.urandom(4).hex()}"
        if isinstance(partner, AtKafka):
            options = await partner.make_queue("stock")
        settings = {
            "SAGABOX_BROKER": _alone(partner.topic.broker, options),
            "SHOP_PARCELS": _text(partner.followed),
        }
        settings["SAGABOX_PEERS"] = f"stock={settings['SAGABOX_BROKER']},partner=" + _text(
            partner.topic
        )
        async with example(settings, database_factory, monkeypatch) as it:
            await it.place("1")
            await until(lambda: it.has_packed("1"), what="stock has packed it")
            (seen,) = await partner.read(1)
            event = json.loads(seen.body)
            assert event["data"] == {"order": "1", "item": "lamp 1"}
            for state in ("packed", "delivered", "delivered"):
                parcel = json.dumps({"reference": "1", "state": state}).encode()
                await partner.send(parcel, {"parcel-event": f"{event['id']}-{state}"})
            await until(lambda: it.has_status("1", "delivered"), what="the parcel is there")


@pytest.mark.databases("sqlite")
async def test_the_partner_on_nats_py_gets_orders_and_tells_of_parcels(
    database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_nats_server() as server:
        broker = server.url().rstrip("?")
        partner = await asyncio.create_subprocess_exec(
            sys.executable, FOLDER / "partner.py", broker, stdout=subprocess.PIPE
        )
        try:
            assert partner.stdout is not None
            assert await partner.stdout.readline() == b"reading\n"
            settings = {
                "SAGABOX_BROKER": broker,
                "SAGABOX_PEERS": f"stock={broker},partner=topic+{broker}/shop.orders",
                "SHOP_PARCELS": f"topic+{broker}/partner.parcels",
            }
            async with example(settings, database_factory, monkeypatch) as it:
                for order in ("1", "2"):
                    await it.place(order)
                for order in ("1", "2"):
                    told = (await partner.stdout.readline()).split()
                    assert told[1:] == [b"shop.order-placed.v1", order.encode()]
                    await until(
                        partial(it.has_status, order, "delivered"), what=f"the parcel of {order}"
                    )
        finally:
            partner.kill()
            await partner.wait()


def test_the_partner_with_faststream_is_python() -> None:
    text = (FOLDER / "partner_faststream.py").read_text()
    compile(text, "partner_faststream.py", "exec")


def test_the_snippets_of_the_page_are_those_of_the_example() -> None:
    sources = [path.read_text() for path in FOLDER.glob("*.py")]
    shown = blocks(PAGE, "python")
    assert len(shown) == 7
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []
    assert sum(len(it.splitlines()) for it in shown[1:3]) + 2 <= 10


def test_its_addresses_are_ones() -> None:
    for _, extra, peers, broker in rows(PAGE, "each broker"):
        (address,) = peers_in(peers.strip("`")).values()
        assert address == broker.strip("`")
        assert extra == f"`sagabox[{KINDS[address.partition('://')[0]]}]`"
    (text,) = [it for it in blocks(PAGE, "") if it.startswith("SAGABOX_PEERS=")]
    others, topics = topics_in(text.strip().removeprefix("SAGABOX_PEERS="))
    assert list(peers_in(others)) == ["stock"]
    assert topics == {"partner": Topic("nats://broker:4222", "shop.orders")}


def test_the_command_that_starts_the_shop_names_each_destination_of_its_route() -> None:
    (route,) = re.findall(r"routes=\{OrderPlaced: \[(.*?)\]\}", blocks(PAGE, "python")[1])
    told = re.search(r"SAGABOX_PEERS=(\S+)", blocks(PAGE, "sh")[0])
    assert told is not None
    named = [peer.partition("=")[0] for peer in told[1].split(",")]
    assert named == re.findall(r'"(\w+)"', route)


def test_its_options_are_those_of_a_topic() -> None:
    topic = Topic.parse("topic+amqp://host/shop?mode=binary&routing-key=a")
    assert (topic.mode, topic.routing_key) == ("binary", "a")
    assert [row[0] for row in rows(PAGE, "topic options")] == ["`mode`", "`routing-key`"]
    assert Topic("nats://host", "a").mode == "structured"


def _alone(broker: str, options: str) -> str:
    return f"{broker.rstrip('?')}?{options}"


def _text(topic: Topic) -> str:
    """The topic as settings have it."""
    return f"topic+{topic.broker.rstrip('?').rstrip('/')}/{topic.name}"
