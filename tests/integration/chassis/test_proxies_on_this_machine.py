"""What a program on the same machine passes on is a stranger's, even if it says otherwise."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from articles.api import ACCESS as OF_ARTICLES
from comments.api import ACCESS as OF_COMMENTS
from orchestrator.api.route_access import ACCESS as OF_ORCHESTRATOR
from outbox.chassis.access.failed_keys import ALLOWED
from outbox.chassis.access.routes import Access, RouteAccess
from tests.support.blog.blog import new_id
from tests.support.faults.network import wire
from tests.support.fixtures import DatabaseFactory
from tests.support.http.nginx import Passing, client_context, passing_on
from tests.support.orchestrator.callers import bearer, code_of
from tests.support.processes.cli import sagabox
from tests.support.processes.running import RunningBlog, running_blog

pytestmark = pytest.mark.databases("sqlite")

TOKENS = {
    "SAGABOX_BLOG_TOKEN": "the-token-of-the-blog",
    "SAGABOX_METRICS_TOKEN": "the-token-of-the-figures",
}
TABLES = {"orchestrator": OF_ORCHESTRATOR, "articles": OF_ARTICLES, "comments": OF_COMMENTS}
PLAIN = Passing()
FRONTS = {
    "nginx with proxy_pass alone": PLAIN,
    "nginx that passes on the Host and adds X-Forwarded-For": Passing(
        (
            "proxy_set_header Host $http_host;",
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        )
    ),
    "nginx with TLS and connections that are kept": Passing(
        ("proxy_set_header Host $http_host;",), tls=True, kept=True
    ),
    "a program that forwards bytes": None,
}


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    """The services as an operator serves them, who says nothing of trust."""
    async with running_blog(database_factory, tmp_path) as running:
        running.settings |= {"SAGABOX_TRUST_LOOPBACK": "", **TOKENS}
        await asyncio.gather(*map(running.start, TABLES))
        yield running


@asynccontextmanager
async def fronted(
    blog: RunningBlog, passing: Passing | None, folder: Path
) -> AsyncIterator[Mapping[str, httpx.AsyncClient]]:
    """A client for each service, by way of what stands before them; None forwards bytes."""
    urls = {name: blog.url(name) for name in TABLES}
    async with AsyncExitStack() as stack:
        if passing is None:
            wires = {name: await stack.enter_async_context(wire(it)) for name, it in urls.items()}
            urls = {name: it.address for name, it in wires.items()}
        else:
            urls = dict(await stack.enter_async_context(passing_on(urls, folder, passing)))
        yield {
            name: await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=url, trust_env=False, timeout=20, verify=client_context()
                )
            )
            for name, url in urls.items()
        }


def guarded(service: str) -> list[tuple[str, str]]:
    """Method and path of each of its addresses that asks for a key."""
    free = (Access.HEALTH, Access.SIGNED, Access.OPEN)
    table = RouteAccess(TABLES[service]).table
    found = [route for route, needs in table.items() if needs not in free]
    return [(method, re.sub(r"\{.*?\}", new_id(), path)) for method, path in found]


async def assert_closed(clients: Mapping[str, httpx.AsyncClient]) -> None:
    """Each address answers 401 to who shows no key."""
    for name, client in clients.items():
        assert (await client.get("/livez")).status_code == 200
        for method, path in guarded(name):
            answer = await client.request(method, path)
            found = (answer.status_code, code_of(answer))
            assert found == (401, "credentials-missing"), f"{method} {path} of {name}: {found}"


async def token_of(blog: RunningBlog, role: str) -> str:
    """A new token for the orchestrator, as its operator makes one."""
    command = ("token", "create", role, "--role", role, "--json")
    database = blog.databases["orchestrator"].url
    told = await asyncio.to_thread(sagabox, *command, "--database", database)
    assert told.code == 0, told
    token: str = json.loads(told.out)["token"]
    return token


@pytest.mark.parametrize("front", FRONTS)
async def test_what_is_passed_on_by_a_program_on_the_same_machine_needs_a_key(
    blog: RunningBlog, tmp_path: Path, front: str
) -> None:
    async with fronted(blog, FRONTS[front], tmp_path / "nginx") as clients:
        await assert_closed(clients)
        key = bearer(await token_of(blog, "admin"))
        orchestrator = clients["orchestrator"]
        body = {"article_id": new_id()}
        begun = await orchestrator.post("/sagas/delete-article", json=body, headers=key)
        assert begun.status_code == 202, begun.text
        path = f"/sagas/{begun.json()['id']}"
        assert (await orchestrator.get(path, headers=key)).status_code == 200
        assert (await orchestrator.post(f"{path}/terminate")).status_code == 401
        redriven = await orchestrator.post("/dead-letters/redrive", json={"ids": []}, headers=key)
        assert redriven.status_code != 401
        new = {"title": "Tides", "body": "Twice a day.", "author": "ada"}
        key = bearer(TOKENS["SAGABOX_BLOG_TOKEN"])
        written = await clients["articles"].post("/articles", json=new, headers=key)
        assert written.status_code == 201, written.text
        for name in ("articles", "comments"):
            key = bearer(TOKENS["SAGABOX_METRICS_TOKEN"])
            assert (await clients[name].get("/metrics", headers=key)).status_code == 200
        # Nor does a connection that is kept remember whose key it carried.
        await assert_closed(clients)


async def test_who_guesses_keys_is_one_caller_under_any_address(
    blog: RunningBlog, tmp_path: Path
) -> None:
    async with fronted(blog, PLAIN, tmp_path / "nginx") as clients:
        statuses = []
        for number in range(ALLOWED + 1):
            named = {"x-forwarded-for": f"192.0.2.{number}", **bearer(f"sgb_{number}")}
            answer = await clients["orchestrator"].get("/sagas", headers=named)
            statuses.append(answer.status_code)
        assert statuses == [401] * ALLOWED + [429]
