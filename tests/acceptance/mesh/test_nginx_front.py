"""Several orchestrators behind one address without a mesh: a real nginx with the file of
`deploy/nginx`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.cli.processes.child import Child, Spec
from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions
from tests.support.blog.fronts import fronts_at, open_to_people
from tests.support.checkout import ROOT
from tests.support.http.nginx import fronting
from tests.support.http.servers import Exchange, scripted
from tests.support.orchestrator.streams import shows_all_there_is
from tests.support.processes import zygote
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import free_port, until

pytestmark = [pytest.mark.databases("postgresql"), pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Front:
    """The blog with two orchestrators, all behind one nginx."""

    blog: RunningBlog
    url: str
    messages: str
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """What nginx has written about each request."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]


def _rendered(behind: Mapping[str, str], public: int, messages: int, log: Path) -> str:
    """The file with these services, by the places that it has for them, and these ports."""
    text = (ROOT / "deploy" / "nginx" / "sagabox.conf").read_text("utf-8")
    places = {
        **{place: url.removeprefix("http://") for place, url in behind.items()},
        "listen 8080": f"listen 127.0.0.1:{public}",
        "listen 8081": f"listen 127.0.0.1:{messages}",
        "/var/log/nginx/sagabox.json": str(log),
    }
    for old, new in places.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture
async def front(blog: RunningBlog, tmp_path: Path) -> AsyncIterator[Front]:
    public, messages, second = free_port(), free_port(), free_port()
    log = tmp_path / "access.json"
    behind = {
        "orchestrator-1:8000": blog.url("orchestrator"),
        "orchestrator-2:8000": f"http://127.0.0.1:{second}",
        "articles-1:8001": blog.url("articles"),
        "comments-1:8002": blog.url("comments"),
    }
    text = _rendered(behind, public, messages, log)
    url, way = f"http://127.0.0.1:{public}", f"http://127.0.0.1:{messages}"
    names = ("orchestrator", "articles", "comments")
    blog.settings |= {
        **open_to_people(url),
        "SAGABOX_PEERS": ",".join(f"{name}={way}" for name in names),
        "SAGABOX_LEASE": "3",
        "SAGABOX_DELIVERY_TIMEOUT": "1",
    }
    async with fronting(text, (public, messages), tmp_path / "nginx"):
        await asyncio.gather(*(blog.start(name) for name in names))
        spec = blog._spec("orchestrator", {})
        spec = replace(
            spec,
            name="orchestrator-2",
            command=(*spec.command, "--port", str(second)),
            url=f"http://127.0.0.1:{second}",
            log=spec.log.with_name("orchestrator-2.log"),
        )
        blog.children["orchestrator-2"] = await zygote.start(spec)
        await blog.children["orchestrator-2"].ready()
        blog.fronts = await fronts_at(url, blog)
        yield Front(blog, url, way, log)


async def test_p4_p9_a_watch_and_deletions_go_on_while_orchestrators_die_behind_nginx(
    front: Front, tmp_path: Path
) -> None:
    blog = front.blog
    deletions = Deletions(blog)
    await deletions.prepare(10)
    watched = await blog.publish()
    await blog.until_known(watched)
    await blog.children["comments"].kill()  # so that no run ends before it is back
    saga = await blog.delete(watched)
    shown = blog.fronts["orchestrator"][1]
    await until(lambda: blog.saga(saga), deadline=30, what="the orchestrator knows the run")
    # The stream is not held up: the run cannot go on, and all its lines are there.
    assert await shows_all_there_is(f"{front.url}/sagas/{saga}", shown)
    watch = await _watch(front, saga, shown, tmp_path / "watch.log")
    try:
        await _until_told(watch, "hide article")
        asking = asyncio.create_task(deletions.ask_all_at_once())
        for label in ("orchestrator", "orchestrator-2"):
            await blog.children[label].kill()
            await asyncio.sleep(0.5)  # deletions are asked for without it
            if label == "orchestrator":
                await blog.start(label)
        await asking
        await blog.start("comments")
        assert await asyncio.wait_for(watch.wait(), 90) == 0, watch.spec.log.read_text("utf-8")
    finally:
        await watch.kill()
    told = watch.spec.log.read_text("utf-8")
    assert f"{saga} ended COMPLETED" in told
    assert told.count("hide article") == len(set(_lines_with(told, "hide article"))), told
    await deletions.assert_ended_rightly()
    await assert_agreement(blog.databases)

    def streams() -> list[dict[str, Any]]:
        return [it for it in front.lines() if it["path"] == f"/sagas/{saga}/events"]

    # A line comes a little later than the end of its stream.
    more = "the first one of this test, and the watch at least twice"
    await until(lambda: len(streams()) >= 3, what=more)
    assert all(it["saga"] == saga for it in streams())
    lines = front.lines()
    asked = [it for it in lines if it["path"].startswith("/sagas/") and it["status"] == "200"]
    assert len({it["instance"].rpartition(" ")[2] for it in asked}) == 2, "both were asked"


def _lines_with(told: str, text: str) -> list[str]:
    return [line for line in told.splitlines() if text in line]


async def _watch(front: Front, saga: str, shown: Mapping[str, str], log: Path) -> Child:
    spec = front.blog._spec("orchestrator", {})
    command = (sys.executable, "-P", "-m", "orchestrator.cli", "watch", saga, "--url", front.url)
    token = shown["authorization"].removeprefix("Bearer ")
    environment = {**spec.environment, "SAGABOX_TOKEN": token, "COLUMNS": "200"}
    return await zygote.start(Spec("watch", command, environment, front.url, log))


async def _until_told(watch: Child, text: str) -> None:
    def told() -> bool:
        log = watch.spec.log
        return log.exists() and text in log.read_text("utf-8")

    await until(told, deadline=40, what=f"the watch tells of {text!r}")


async def test_messages_and_figures_do_not_pass_the_public_side_of_nginx(front: Front) -> None:
    async with httpx.AsyncClient(base_url=front.url, timeout=60, trust_env=False) as client:
        for path in ("/messages", "/%6dessages", "//messages", "/metrics", "/docs", "/readyz"):
            assert (await client.post(path)).status_code == 404, path
            assert (await client.get(path)).status_code == 404, path
        assert (await client.get("/sagas")).status_code == 401
    async with httpx.AsyncClient(base_url=front.messages, timeout=60, trust_env=False) as client:
        assert (await client.get("/sagas")).status_code == 404
        named = {"ce-sagaboxto": "strangers"}
        assert (await client.post("/messages", headers=named)).status_code == 404
        named = {"ce-sagaboxto": "comments"}
        assert (await client.post("/messages", headers=named)).status_code == 401


async def test_a_post_that_has_left_is_not_repeated_and_a_get_is(tmp_path: Path) -> None:
    """Two orchestrators that take a request, and break the connection without an answer."""

    async def breaks(exchange: Exchange) -> None:
        exchange.reset()

    async with scripted(breaks) as one, scripted(breaks) as other:
        behind = {name: one.address for name in ("articles-1:8001", "comments-1:8002")}
        behind |= {"orchestrator-1:8000": one.address, "orchestrator-2:8000": other.address}
        public, messages = free_port(), free_port()
        text = _rendered(behind, public, messages, tmp_path / "access.json")
        asked = [
            ("POST", f"http://127.0.0.1:{public}/sagas/delete-article", 1),
            ("GET", f"http://127.0.0.1:{public}/sagas", 2),
            ("POST", f"http://127.0.0.1:{messages}/messages", 1),
        ]
        for number, (method, url, attempts) in enumerate(asked):
            # A new nginx each time, since it leaves those out that have failed.
            async with (
                fronting(text, (public, messages), tmp_path / f"nginx-{number}"),
                httpx.AsyncClient(timeout=60, trust_env=False) as client,
            ):
                before = len(one.requests) + len(other.requests)
                named = {"ce-sagaboxto": "orchestrator"}
                answer = await client.request(method, url, headers=named)
                assert answer.status_code == 502
                assert len(one.requests) + len(other.requests) - before == attempts, url
