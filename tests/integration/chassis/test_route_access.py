"""Every route of every service, tried by each role and by a stranger, against the table."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI

from outbox.chassis.access.routes import Access, Role
from tests.support.blog.blog import (
    Running,
    articles_app,
    articles_schema,
    comments_app,
    comments_schema,
    running,
)
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import (
    ELSEWHERE,
    HERE,
    REFUSALS,
    bearer,
    calling,
    code_of,
    give_token,
)
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_schema
from tests.support.repository.routes import documented_table, expected_table, routes_of, table_of

SCHEMAS = {
    "orchestrator": orchestrator_schema,
    "articles": articles_schema,
    "comments": comments_schema,
}
_ADDRESSES = itertools.count(1)
TOKENS = {"public_token": "the-blogs", "metrics_token": "the-figures"}


def _app(service: str, database: Database, **settings: str) -> FastAPI:
    makers: dict[str, Callable[..., FastAPI]] = {
        "orchestrator": noted_app,
        "articles": articles_app,
        "comments": comments_app,
    }
    return makers[service](database, **settings)


async def _try(client: httpx.AsyncClient, route: tuple[str, str]) -> str | None:
    """Call the route with nothing it could use; how it was refused, None if it was let in."""
    method, path = route
    filled = re.sub(r"\{\w+(:path)?\}", "0190a000-0000-7000-8000-000000000001", path)
    code = code_of(await client.request(method, filled))
    return code if code in REFUSALS else None


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("service", SCHEMAS)
async def test_every_route_is_in_the_table_and_the_table_has_no_others(
    service: str, database_factory: DatabaseFactory
) -> None:
    app = _app(service, database_factory(SCHEMAS[service]))
    found = set(routes_of(app))
    described = {
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }
    assert described <= found, "the walk over the routes misses some"
    assert found == set(table_of(service))


def test_the_documentation_shows_the_table() -> None:
    assert documented_table() == expected_table(), "docs/operate/security.md should show:\n" + (
        expected_table()
    )


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("role", [None, *Role])
async def test_each_route_of_the_orchestrator_opens_to_the_roles_of_the_table(
    role: Role | None, database_factory: DatabaseFactory
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        token = None
        if role is not None:
            token = await give_token(service.chassis.database, "ann", role)
        async with calling(service.app, ELSEWHERE, token) as client:
            wrong = []
            for route, needs in table_of("orchestrator").items():
                found = await _try(client, route)
                if found != _expected(needs, role):
                    wrong.append((route, found))
            assert wrong == []


def _expected(needs: Access, role: Role | None) -> str | None:
    """By the words of docs/operate/security.md, and not by the code that it describes."""
    match needs, role:
        case ((Access.HEALTH | Access.SIGNED | Access.OPEN), _):
            return None
        case _, None:
            return "credentials-missing"
        case Access.VIEWER, _:
            return None
        case Access.OPERATOR, (Role.OPERATOR | Role.ADMIN):
            return None
        case Access.ADMIN, Role.ADMIN:
            return None
        case _:
            return "not-allowed"


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("service", ["articles", "comments"])
@pytest.mark.parametrize("given", [False, True], ids=["no tokens", "tokens"])
async def test_each_route_of_the_public_opens_to_the_tokens_of_its_settings(
    service: str, given: bool, database_factory: DatabaseFactory
) -> None:
    settings = TOKENS if given else {}
    app = _app(service, database_factory(SCHEMAS[service]), **settings)
    async with running(app) as started:
        for route, needs in table_of(service).items():
            tried = {caller: await _as(started, caller, route) for caller in (*TOKENS, "stranger")}
            expected: dict[str, str | None] = dict.fromkeys(tried)
            if needs not in (Access.HEALTH, Access.SIGNED):
                own = "public_token" if needs is Access.PUBLIC else "metrics_token"
                no = "not-allowed" if given else "credentials-wrong"
                expected.update(dict.fromkeys(TOKENS, no))
                expected["stranger"] = "credentials-missing"
                if given:
                    expected[own] = None
            assert tried == expected, route


async def _as(service: Running, caller: str, route: tuple[str, str]) -> str | None:
    # An address for each call: the failures of one would stop the next.
    peer = str(ipaddress.IPv4Address("10.0.0.0") + next(_ADDRESSES))
    async with calling(service.app, peer, TOKENS.get(caller)) as client:
        return await _try(client, route)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("service", SCHEMAS)
async def test_everything_is_open_to_this_machine_and_what_is_passed_on_is_not(
    service: str, database_factory: DatabaseFactory
) -> None:
    app = _app(service, database_factory(SCHEMAS[service]))
    async with running(app), calling(app, HERE) as client:
        for route, needs in table_of(service).items():
            client.headers = httpx.Headers()
            assert await _try(client, route) is None, route
            client.headers = httpx.Headers({"x-forwarded-for": "192.0.2.1"})
            open_ = needs in (Access.HEALTH, Access.SIGNED, Access.OPEN)
            assert await _try(client, route) == (None if open_ else "credentials-missing")
            client.headers = httpx.Headers({"host": "evil.example"})
            open_ = needs in (Access.HEALTH, Access.SIGNED)
            assert await _try(client, route) == (None if open_ else "unknown-host"), route


@pytest.mark.databases("sqlite")
async def test_with_a_token_of_the_blog_this_machine_needs_it_too(
    database_factory: DatabaseFactory,
) -> None:
    app = articles_app(database_factory(articles_schema), public_token="the-blogs")
    async with running(app) as articles:
        new = {"title": "Tides", "body": "High.", "author": "Ada"}
        refused = await articles.http.post("/articles", json=new)
        assert (refused.status_code, code_of(refused)) == (401, "credentials-missing")
        assert "SAGABOX_BLOG_TOKEN" in refused.json()["next_step"]
        assert (await articles.http.get("/metrics")).status_code == 200
        shown = bearer("the-blogs")
        assert (await articles.http.get("/articles", headers=shown)).json()["items"] == []
        made = await articles.http.post("/articles", json=new, headers=shown)
        assert made.status_code == 201


@pytest.mark.databases("sqlite")
async def test_an_open_public_opens_its_public_routes_to_all_and_nothing_else(
    database_factory: DatabaseFactory,
) -> None:
    database = database_factory(articles_schema)
    for is_open, code in ((True, None), (False, "credentials-missing")):
        app = articles_app(database, trust_loopback=False, public_open=is_open)
        async with running(app):
            for peer in (ELSEWHERE, "127.0.0.1"):
                async with calling(app, peer) as client:
                    assert code_of(await client.get("/articles")) == code
                    assert code_of(await client.get("/metrics")) == "credentials-missing"
                    foreign = {"origin": "http://evil.example"}
                    assert code_of(await client.post("/articles", headers=foreign)) == "cross-site"


@pytest.mark.databases("sqlite")
async def test_an_address_that_is_not_in_the_table_is_for_administrators(
    database_factory: DatabaseFactory,
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        for role, code in ((Role.OPERATOR, "not-allowed"), (Role.ADMIN, "unknown-address")):
            token = await give_token(service.chassis.database, role.value, role)
            async with calling(service.app, ELSEWHERE, token) as client:
                assert code_of(await client.get("/added-by-the-service")) == code
