"""`examples/webhooks`: its subscriber is a process of its own, which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from outbox import RetryPolicy, Webhook
from outbox.transports.webhooks.webhook import _OPTIONS
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.outbox.services import SECRETS
from tests.support.outbox.subscribers import SECRET
from tests.support.processes.waiting import free_port, until

PAGE = ROOT / "docs/guide/webhooks.md"


class Subscriber:
    """The example's subscriber, on a port and with a file that stay the same."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._environment = {
            **os.environ,
            "CRM_FILE": str(folder / "crm.sqlite"),
            "CRM_SECRET": SECRET,
        }
        self._folder = folder

    @contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends, when it is killed."""
        uvicorn = [sys.executable, "-m", "uvicorn", "webhooks.subscriber:app"]
        process = subprocess.Popen(
            [*uvicorn, "--port", str(self.port), "--log-level", "error"],
            cwd=ROOT / "examples",
            env=self._environment,
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()

    async def taken(self) -> list[dict[str, Any]]:
        """What it has, empty while it does not answer."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            try:
                answer = await client.get(f"http://127.0.0.1:{self.port}/taken")
            except httpx.TransportError:
                return []
        found: list[dict[str, Any]] = answer.json()
        return found

    async def has(self, count: int) -> bool:
        """Whether it has so many events."""
        return len(await self.taken()) >= count


@pytest.fixture
def subscriber(tmp_path: Path) -> Subscriber:
    return Subscriber(tmp_path)


@pytest.fixture
def blog(
    subscriber: Subscriber, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("SAGABOX_DATABASE_URL_BLOG", database.url)
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    monkeypatch.setenv("CRM_URL", f"http://127.0.0.1:{subscriber.port}/hooks/blog")
    monkeypatch.setenv("CRM_IS_HERE", "1")
    monkeypatch.setenv("CRM_SECRET", SECRET)
    from webhooks import blog

    yield blog
    for name in [it for it in sys.modules if it.split(".")[0] == "webhooks"]:
        del sys.modules[name]


async def test_a_subscriber_that_is_killed_gets_every_event_once_and_in_order(
    blog: ModuleType, subscriber: Subscriber
) -> None:
    async with blog.service.running():
        with subscriber.running():
            for number in range(5):
                await blog.publish("post-1", f"version {number}")
            await until(lambda: subscriber.has(2), deadline=30, what="the first events have come")
        for number in range(5, 9):
            await blog.publish("post-1", f"version {number}")
        await blog.delete("post-1")
        with subscriber.running():
            await until(lambda: subscriber.has(10), deadline=30, what="all events have come")
            events = await subscriber.taken()
    await blog.engine.dispose()
    titles = [it["data"].get("title") for it in events]
    assert titles == [*(f"version {number}" for number in range(9)), None]
    assert {it["source"] for it in events} == {"blog"}
    assert events[-1]["type"] == "blog.post-deleted.v1"


async def test_what_is_not_signed_is_refused_by_the_examples_subscriber(
    subscriber: Subscriber,
) -> None:
    url = f"http://127.0.0.1:{subscriber.port}/hooks/blog"
    forged = {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    with subscriber.running():
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

            async def status(headers: dict[str, str]) -> int:
                try:
                    return (await client.post(url, content=b"{}", headers=headers)).status_code
                except httpx.TransportError:
                    return 0

            await until(lambda: status({}), deadline=30, what="the subscriber answers")
            assert [await status({}), await status(forged)] == [401, 401]
        assert await subscriber.taken() == []


def test_the_options_on_the_page_are_those_of_the_code() -> None:
    table = PAGE.read_text().partition("<!-- webhook options -->")[2].partition("<!-- end")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:3]] for line in table.splitlines()]
    found = dict(row for row in rows[3:] if len(row) == 2)
    hook = Webhook("https://crm.example/", secret="env:A")
    assert found == {
        "secret": "required",
        "mode": hook.mode,
        "batch": str(hook.batch),
        "at_once": str(hook.at_once),
        "private": "no",
        "sagabox_keys": "none",
        "pause_after": f"{hook.pause_after / 86_400:g}d",
        "on_exhaustion": hook.on_exhaustion.value,
    }
    assert set(found) == {*_OPTIONS, "secret"}


def test_the_pauses_on_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.read_text().split())
    policy: RetryPolicy = Webhook("https://crm.example/", secret="env:A").retry
    assert f"tried again after {policy.first:g} seconds" in text
    assert f"grow to {policy.ceiling / 3600:g} hours" in text
    assert f"After {policy.attempts} attempts" in text
    shortest, longest = (
        round(sum(policy.delay(it, chance) or 0.0 for it in range(1, policy.attempts)) / 86_400, 1)
        for chance in (1 - 1e-9, 0.0)
    )
    assert f"which take {shortest:g} to {longest:g} days" in text
