from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI

from outbox.chassis.endpoints import api_docs
from outbox.chassis.http import problems
from outbox.chassis.http.middleware import SecurityHeaders

_LINE = re.compile(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", re.MULTILINE)


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(api_docs.router("Tea & <biscuits>"))
    problems.install(app)
    app.add_middleware(SecurityHeaders)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


class _Addresses(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline_scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script" and "src" not in dict(attrs):
            self.inline_scripts += 1


def test_the_vendored_files_are_those_that_were_vendored() -> None:
    written = dict(_LINE.findall((api_docs.FOLDER / "VENDORED.md").read_text("utf-8")))
    there = {path.name for path in api_docs.FOLDER.iterdir()} - {"VENDORED.md"}
    assert set(written) == there
    assert set(api_docs.FILES) | {"LICENSE"} <= there
    for name, digest in written.items():
        assert hashlib.sha256((api_docs.FOLDER / name).read_bytes()).hexdigest() == digest, name


async def test_the_page_loads_nothing_from_another_host(client: httpx.AsyncClient) -> None:
    async with client:
        page = await client.get("/docs")
        addresses = _Addresses(page.text)
        assert len(addresses.found) == 4
        for address in addresses.found:
            assert re.fullmatch(r"docs/[\w.-]+", address), address
            loaded = await client.get(f"/{address}")
            assert loaded.status_code == 200
            assert loaded.content
        start = (await client.get("/docs/start.js")).text
    assert addresses.inline_scripts == 0
    assert "//" not in page.text.replace("<!doctype html>", "")
    assert "//" not in start
    assert "validatorUrl: null" in start


async def test_the_page_forbids_the_browser_to_load_from_another_host(
    client: httpx.AsyncClient,
) -> None:
    async with client:
        page = await client.get("/docs")
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    for sources in policy.values():
        assert set(sources.split()) <= {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert "'unsafe-inline'" not in policy["script-src"]


def test_no_file_of_the_page_names_another_host_to_load_from() -> None:
    style = (api_docs.FOLDER / "swagger-ui.css").read_text("utf-8")
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style)


async def test_the_title_of_the_page_is_text(client: httpx.AsyncClient) -> None:
    async with client:
        page = await client.get("/docs")
    assert "<title>Tea &amp; &lt;biscuits&gt;</title>" in page.text


@pytest.mark.parametrize("name", ["LICENSE", "..%2f..%2fdocs.py", "VENDORED.md", "nothing.js"])
async def test_only_the_files_of_the_page_are_served(client: httpx.AsyncClient, name: str) -> None:
    async with client:
        answer = await client.get(f"/docs/{name}")
    assert answer.status_code == 404
