"""An orchestrator at work, with one participant that is a plain HTTP service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import Saga, compensatable, pivot
from orchestrator.app import assemble
from orchestrator.definition.registry import Registry
from orchestrator.definition.rest import RestCall, rest
from orchestrator.engine.engine import Engine
from outbox.messages import Command
from outbox.replies import Outcome, Reply
from outbox.transports.base import Transport
from outbox.transports.memory import MemoryTransport
from tests.support.blog.blog import Running, running
from tests.support.databases.databases import Database, Schema
from tests.support.orchestrator.orchestrating import orchestrator_schema, orchestrator_settings
from tests.support.orchestrator.plain_service import PlainService
from tests.support.processes.waiting import until

PROBE = "GET /charges/by-key/{key}"


@dataclass(frozen=True)
class Charged:
    id: str


@dataclass(frozen=True)
class Ship(Command[None], type="shop.ship.v1", key="order"):
    order: str


@dataclass(frozen=True)
class Order:
    order: str
    cents: int
    charge: str = ""

    def charged(self, reply: Charged) -> Order:
        return replace(self, charge=reply.id)


def charge(it: Order, **options: Any) -> RestCall[Charged]:
    half = timedelta(seconds=0.5)
    given = {"keyed": True, "timeout": half, "grace": timedelta(), **options}
    return rest("payments", "POST /charges", body={"cents": it.cents}, reply=Charged, **given)


def refund(_: Order, **options: Any) -> RestCall[None]:
    given = {"probe": PROBE, "timeout": timedelta(seconds=0.5), "grace": timedelta(), **options}
    return rest("payments", "DELETE /charges/{reply.id}", **given)


def selling(
    action: Callable[[Order], RestCall[Charged]] = charge,
    compensation: Callable[[Order], RestCall[None]] = refund,
    **options: Any,
) -> Saga[Order]:
    """The card is charged by a plain HTTP service, and the shop ships by the library."""
    return Saga(
        name="sell",
        version=1,
        state=Order,
        key=lambda it: it.order,
        steps=[
            compensatable(
                "charge", action, compensation=compensation, on_reply=Order.charged, **options
            ),
            pivot("ship", lambda it: Ship(it.order)),
        ],
    )


@dataclass
class Shop:
    """The orchestrator, and what the shop answers to `Ship`."""

    service: Running
    payments: PlainService
    ships: list[Outcome]

    async def start(self, saga: str = "sell", **state: object) -> str:
        body = {"order": "o-1", "cents": 500, **state}
        id = ""

        async def begun() -> bool:
            nonlocal id
            answer = await self.service.http.post(f"/sagas/{saga}", json=body)
            assert answer.status_code in (202, 503), answer.text
            id = answer.json().get("id", "")
            return bool(id)

        await until(begun, what="the node has its shards")
        return id

    async def look(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.service.http.get(f"/sagas/{id}")).json()
        return found

    async def until(self, id: str, *statuses: str) -> dict[str, Any]:
        async def there() -> bool:
            return (await self.look(id))["status"] in statuses

        await until(there, deadline=30, what=f"{id} is {statuses}")
        return await self.look(id)


Open = Callable[..., AbstractAsyncContextManager[Shop]]


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_schema


@pytest.fixture
def open_shop(database: Database) -> Open:
    @asynccontextmanager
    async def opened(
        sagas: Iterable[Saga[Any]],
        payments: PlainService | None = None,
        ships: list[Outcome] | None = None,
    ) -> AsyncIterator[Shop]:
        payments, ships = payments or PlainService(), ships or []

        async def ship(batch: Any, _: object) -> list[Reply]:
            return [Reply(ships.pop(0) if ships else Outcome.DONE, code="no") for _ in batch]

        ways: Mapping[str, Transport] = {"shop": MemoryTransport(ship)}
        app = assemble(
            orchestrator_settings(database, poll_interval=0.2),
            Registry(sagas, {"payments": "rest+https://pay.internal/v1", "shop": "http://shop"}),
            make_engine=Engine,
            transports=ways,
            rest_transports={"payments": payments},
        )
        async with running(app) as service, app.router.lifespan_context(app):
            yield Shop(service, payments, ships)

    return opened
