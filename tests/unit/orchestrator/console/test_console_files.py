"""What the console is made of, and how its files are served."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from orchestrator import console
from orchestrator.console import assets
from outbox.chassis.http import problems
from outbox.chassis.http.middleware import SecurityHeaders

_SUM = re.compile(r"^\| (\S+/\S+) \| ([0-9a-f]{64}) \|$", re.MULTILINE)
_IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']""")
_OWN = sorted(
    path
    for path in assets.FOLDER.rglob("*")
    if path.is_file() and assets.VENDOR not in path.parents
)
_MODULES = [path for path in _OWN if path.suffix == ".js"]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(console.router())
    problems.install(app)
    app.add_middleware(SecurityHeaders)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield http


class _Page(HTMLParser):
    """The addresses of a page, and what the policy would refuse in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.inline.append(tag)
        self.inline += [name for name in names if name == "style" or name.startswith("on")]


def test_the_vendored_files_are_those_that_were_vendored() -> None:
    written = dict(_SUM.findall((assets.VENDOR / "VENDORED.md").read_text("utf-8")))
    there = {it.relative_to(assets.VENDOR).as_posix() for it in assets.VENDOR.glob("*/*")}
    assert set(written) == there
    assert {it.partition("/")[2] for it in there} >= {"LICENSE", "preact.mjs", "htm.mjs"}
    for name, digest in written.items():
        assert hashlib.sha256((assets.VENDOR / name).read_bytes()).hexdigest() == digest, name


def test_each_vendored_folder_has_its_licence_and_names_its_version() -> None:
    told = (assets.VENDOR / "VENDORED.md").read_text("utf-8")
    for folder in assets.VENDOR.iterdir():
        if folder.is_dir():
            assert (folder / "LICENSE").is_file()
            assert f"| {folder.name.rpartition('-')[2]} |" in told


@pytest.mark.parametrize("path", _MODULES, ids=lambda it: it.name)
def test_a_module_is_short_and_never_makes_markup_of_text(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 300
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|"
        r"dangerouslySet|\bhttps?://",
        text,
    )


async def test_each_address_of_the_page_and_each_import_is_served(
    client: httpx.AsyncClient,
) -> None:
    page = _Page((await client.get("/console")).text)
    assert page.inline == []
    assert len(page.addresses) >= 4
    wanted = {f"/{it}" for it in page.addresses}
    seen: set[str] = set()
    while wanted - seen:
        address = (wanted - seen).pop()
        seen.add(address)
        answer = await client.get(address)
        assert answer.status_code == 200, address
        if address.endswith(("js", ".mjs")):
            assert answer.headers["content-type"].startswith("text/javascript")
            wanted |= {
                str(httpx.URL(f"http://x{address}").join(it).path)
                for it in _IMPORT.findall(answer.text)
            }
    assert {f"/console/{it.relative_to(assets.FOLDER).as_posix()}" for it in _MODULES} <= seen
    assert any("vendor/preact" in it for it in seen)


@pytest.mark.parametrize("address", ["/console", "/console/app.js", "/console/style.css"])
async def test_the_policy_allows_the_own_origin_and_no_inline_code(
    client: httpx.AsyncClient, address: str
) -> None:
    answer = await client.get(address)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_own_files_are_asked_for_anew_and_vendored_ones_are_kept(
    client: httpx.AsyncClient,
) -> None:
    own = await client.get("/console/app.js")
    assert own.headers["cache-control"] == "no-cache"
    again = await client.get("/console/app.js", headers={"if-none-match": own.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await client.get("/console/app.js", headers={"if-none-match": '"another"'})
    assert (other.status_code, other.content) == (200, own.content)
    (preact,) = assets.VENDOR.glob("preact-*/preact.mjs")
    kept = await client.get(f"/console/{preact.relative_to(assets.FOLDER).as_posix()}")
    assert "immutable" in kept.headers["cache-control"]


async def test_the_page_is_found_behind_a_slash_too(client: httpx.AsyncClient) -> None:
    answer = await client.get("/console/")
    assert (answer.status_code, answer.headers["location"]) == (308, "../console")


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "vendor/VENDORED.md",
        "vendor/preact-11.2.0/LICENSE",
        "..%2frouter.py",
        "../router.py",
        "nothing.js",
        "vendor",
    ],
)
async def test_only_the_files_of_the_page_are_served(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/console/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


_FLOORS = {"core": 0, "parts": 1, "pages": 2, "": 3}
"""The folders of the modules: each may import its own floor and those below it."""


def _imports() -> dict[str, set[str]]:
    """The console's own modules that each of them imports, by their paths below the folder."""
    found: dict[str, set[str]] = {}
    for path in _MODULES:
        origin = path.relative_to(assets.FOLDER)
        targets = ((path.parent / it).resolve() for it in _IMPORT.findall(path.read_text("utf-8")))
        found[origin.as_posix()] = {
            it.relative_to(assets.FOLDER.resolve()).as_posix()
            for it in targets
            if it.suffix == ".js"
        }
    return found


def _floor(module: str) -> int:
    return _FLOORS[module.rpartition("/")[0]]


def test_the_modules_import_nothing_of_a_floor_above_them() -> None:
    imports = _imports()
    assert any(imports.values())
    upwards = [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if _floor(other) > _floor(module)
    ]
    assert not upwards


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    imports = _imports()
    done: set[str] = set()
    while free := {it for it, others in imports.items() if it not in done and others <= done}:
        done |= free
    assert set(imports) == done, f"in a circle: {sorted(set(imports) - done)}"
