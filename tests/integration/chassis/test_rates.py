"""A caller that sends too many requests is told when to come back, and no other caller is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from outbox.chassis.access.routes import Role
from outbox.transports.http.signing import Keyring, sign
from outbox.wire.envelope import BATCH
from tests.support.blog.blog import SECRETS, START, Running, articles_app, articles_schema, running
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import (
    ELSEWHERE,
    HERE,
    bearer,
    calling,
    clock_of,
    code_of,
    give_token,
)
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_schema, problem

RATE = 2.0
ROOM = 4
"""Requests that pass at once."""
OURS = {"origin": "http://127.0.0.1"}

pytestmark = pytest.mark.databases("sqlite")


@asynccontextmanager
async def limited(make: DatabaseFactory, **settings: Any) -> AsyncIterator[Running]:
    """The orchestrator with a small rate, unless told otherwise."""
    settings = {"rate_limit": RATE, **settings}
    async with running(noted_app(make(orchestrator_schema), **settings)) as service:
        yield service


async def sent(
    client: httpx.AsyncClient, count: int, path: str = "/sagas", **headers: str
) -> list[int]:
    """The statuses of so many requests."""
    return [(await client.get(path, headers=headers)).status_code for _ in range(count)]


def signed(client: httpx.AsyncClient) -> httpx.Request:
    """A batch without messages, as another service would send it."""
    headers = {"content-type": BATCH}
    headers |= sign(
        Keyring.from_text(SECRETS),
        method="POST",
        target="/messages",
        headers=headers,
        body=b"[]",
        now=START,
    )
    return client.build_request("POST", "/messages", content=b"[]", headers=headers)


async def test_who_sends_too_many_requests_is_told_when_to_come_back(
    database_factory: DatabaseFactory,
) -> None:
    async with limited(database_factory) as service:
        token = await give_token(service.chassis.database, "ann", Role.VIEWER)
        async with calling(service.app, token=token) as client:
            assert await sent(client, ROOM) == [200] * ROOM
            late = await client.get("/sagas")
            found = problem(late, 429, "too-many-requests")
            assert late.headers["retry-after"] == "1"
            assert "SAGABOX_RATE_LIMIT" in found["next_step"]
            assert late.headers["x-frame-options"] == "DENY"
            clock_of(service).advance(1 / RATE)
            assert await sent(client, 2) == [200, 429]


async def test_each_token_has_a_limit_of_its_own_wherever_it_is_shown(
    database_factory: DatabaseFactory,
) -> None:
    async with limited(database_factory) as service:
        ann = await give_token(service.chassis.database, "ann", Role.VIEWER)
        bob = await give_token(service.chassis.database, "bob", Role.VIEWER)
        async with calling(service.app) as one, calling(service.app, "192.0.2.9") as other:
            assert await sent(one, ROOM, **bearer(ann)) == [200] * ROOM
            assert await sent(other, 1, **bearer(ann)) == [429], "the same token elsewhere"
            assert await sent(one, 1, **bearer(bob)) == [200], "another one at the same place"


async def test_sessions_count_for_the_token_that_they_were_traded_for(
    database_factory: DatabaseFactory,
) -> None:
    async with limited(database_factory) as service:
        ann = await give_token(service.chassis.database, "ann", Role.VIEWER)
        async with calling(service.app) as one, calling(service.app, "192.0.2.9") as other:
            for client in (one, other):
                begun = await client.post("/session", json={"token": ann}, headers=OURS)
                assert begun.status_code == 201
            assert await sent(one, ROOM) == [200] * ROOM
            assert await sent(other, 1) == [429]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/sagas", {}, 401),
        ("/sagas", {"host": "evil.example"}, 421),
        ("/sagas", {"sec-fetch-site": "cross-site"}, 403),
        ("/console/app.js", {}, 200),
        ("/added-by-the-service", {}, 401),
    ],
)
async def test_without_a_right_token_the_address_is_counted_with_every_answer(
    database_factory: DatabaseFactory, path: str, headers: Mapping[str, str], status: int
) -> None:
    async with limited(database_factory) as service:
        ann = await give_token(service.chassis.database, "ann", Role.VIEWER)
        async with calling(service.app) as client:
            expected = [status] * ROOM + [429]
            assert await sent(client, ROOM + 1, path, **headers) == expected
            assert await sent(client, 1, "/livez") == [200]
            assert await sent(client, 1, **bearer(ann)) == [200]
        async with calling(service.app, "192.0.2.9") as neighbour:
            assert await sent(neighbour, 1, path, **headers) == [status]


async def test_wrong_tokens_do_not_bring_a_new_limit_each(
    database_factory: DatabaseFactory,
) -> None:
    async with limited(database_factory) as service, calling(service.app) as client:
        wrong = [
            (await client.get("/sagas", headers=bearer(f"sgb_{number}"))).status_code
            for number in range(ROOM + 1)
        ]
        assert wrong == [401] * ROOM + [429]


async def test_callers_on_this_machine_are_not_limited_and_what_is_passed_on_is(
    database_factory: DatabaseFactory,
) -> None:
    async with limited(database_factory) as service:
        ann = await give_token(service.chassis.database, "ann", Role.VIEWER)
        async with calling(service.app, HERE) as client:
            assert await sent(client, ROOM + 2) == [200] * (ROOM + 2)
            assert await sent(client, ROOM + 2, **bearer(ann)) == [200] * (ROOM + 2)
            forwarded = bearer(ann) | {"x-forwarded-for": "192.0.2.1"}
            assert (await sent(client, ROOM + 2, **forwarded))[-1] == 429


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_is_never_limited(database_factory: DatabaseFactory, path: str) -> None:
    async with limited(database_factory) as service, calling(service.app) as client:
        await sent(client, ROOM + 1)
        assert 429 not in await sent(client, ROOM + 2, path)


@pytest.mark.parametrize("rate", [0.0, 100.0], ids=["off", "default"])
async def test_the_rate_comes_from_the_settings(
    database_factory: DatabaseFactory, rate: float
) -> None:
    settings = {"rate_limit": rate} if rate == 0 else {}
    app = noted_app(database_factory(orchestrator_schema), **settings)
    async with running(app) as service, calling(service.app) as client:
        assert await sent(client, 200) == [401] * 200
        assert await sent(client, 1) == [429 if rate else 401]


async def test_signed_messages_are_not_counted_and_unsigned_ones_are(
    database_factory: DatabaseFactory,
) -> None:
    app = articles_app(database_factory(articles_schema), rate_limit=RATE)
    async with running(app) as service, calling(service.app, ELSEWHERE) as client:
        for _ in range(ROOM + 2):
            assert (await client.send(signed(client))).status_code == 200
        unsigned = [await client.post("/messages", content=b"[]") for _ in range(ROOM + 1)]
        assert [it.status_code for it in unsigned] == [401] * ROOM + [429]
        assert code_of(unsigned[-1]) == "too-many-requests"
        assert unsigned[-1].headers["retry-after"] == "1"
        # What is signed still comes in from there.
        assert (await client.send(signed(client))).status_code == 200
        assert (await client.get("/articles")).status_code == 429
