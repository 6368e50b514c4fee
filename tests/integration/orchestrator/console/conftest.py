"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fastapi import FastAPI
from playwright.async_api import Browser, Page

from orchestrator import console
from outbox.chassis.http import problems
from outbox.chassis.http.middleware import SecurityHeaders
from tests.support.http.browser import Watched, page_of, started
from tests.support.http.servers import serving
from tests.support.orchestrator.stub_api import EMPTY, Answer, Says, StubApi


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with started(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def origin() -> AsyncIterator[str]:
    """Where the console's files are."""
    app = FastAPI()
    app.include_router(console.router())
    problems.install(app)
    app.add_middleware(SecurityHeaders)
    async with serving(app) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def watched(browser: Browser) -> AsyncIterator[Watched]:
    async with page_of(browser) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def api(watched: Watched) -> StubApi:
    """An orchestrator that has nothing to show."""
    nothing: dict[str, Answer] = {f"GET /{name}": EMPTY for name in ("sagas", "dead-letters")}
    for name in ("definitions", "participants"):
        nothing[f"GET /{name}"] = Says({"items": []})
    stub = StubApi({**nothing})
    await stub.attach(watched.page)
    return stub
