"""The orchestrator as a real process: streams that are open do not keep it from stopping."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from orchestrator.cli.processes.blog import Blog
from orchestrator.cli.processes.child import Child
from orchestrator.cli.processes.services import BLOG_SAGAS
from outbox.chassis.http.bounded_http import MAX_HEAD_BYTES, MAX_HEAD_LINES
from tests.support.databases.databases import Database
from tests.support.orchestrator.orchestrating import problem
from tests.support.processes.guardian import guardian
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port, until

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.slow]


@asynccontextmanager
async def _serving(
    database: Database, folder: Path, *, bare: bool, **extra: str
) -> AsyncIterator[tuple[Child, httpx.AsyncClient]]:
    """The orchestrator, whose participants are nowhere, by our command or by uvicorn alone."""
    names = ("orchestrator", "articles", "comments")
    blog = Blog(
        databases={"orchestrator": database.url},
        ports={name: free_port() for name in names},
        secret=SECRET,
        logs=folder,
    )
    spec = blog.spec("orchestrator", extra=extra)
    if bare:
        command = (sys.executable, "-m", "uvicorn", "--factory", "orchestrator:create_app")
        sagas = {"SAGABOX_SAGAS": "orchestrator.sagas.delete_article:delete_article"}
        spec = replace(
            spec,
            command=(*command, "--port", str(blog.ports["orchestrator"])),
            environment={**spec.environment, **sagas},
        )
    child = await Child.start(spec)
    guardian().entrust_process(child.pid)
    try:
        await child.ready()
        async with httpx.AsyncClient(base_url=spec.url, timeout=20, trust_env=False) as client:
            yield child, client
    finally:
        await child.kill()


async def _start(client: httpx.AsyncClient) -> str:
    answers: list[httpx.Response] = []

    async def started() -> bool:
        body = {"article_id": f"article {len(answers)}"}
        answers.append(await client.post("/sagas/delete-article", json=body))
        # Until the node has its shards, it says so.
        assert answers[-1].status_code in (202, 503), answers[-1].text
        return answers[-1].status_code == 202

    await until(started, what="the engine has its shards")
    return str(answers[-1].json()["id"])


@pytest.mark.parametrize("bare", [False, True], ids=["sagabox", "uvicorn"])
async def test_open_streams_and_waits_end_when_the_process_is_told_to_stop(
    database: Database, tmp_path: Path, bare: bool
) -> None:
    async with AsyncExitStack() as stack:
        child, client = await stack.enter_async_context(_serving(database, tmp_path, bare=bare))
        id = await _start(client)
        stream = await stack.enter_async_context(client.stream("GET", f"/sagas/{id}/events"))
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: started"
        waiting = asyncio.create_task(
            client.post(
                "/sagas/delete-article",
                json={"article_id": "another"},
                headers={"prefer": "wait=30"},
            )
        )

        async def has_begun() -> bool:
            listed = await client.get("/sagas", params={"key": "another"})
            return bool(listed.json()["items"])

        await until(has_begun, what="the second start waits")
        began = asyncio.get_running_loop().time()
        # Uvicorn by itself passes the signal on when it has ended well.
        assert await child.stop(30) == (-signal.SIGTERM if bare else 0)
        assert asyncio.get_running_loop().time() - began < 12
        rest = [line async for line in lines]  # it ended, and did not break
        assert rest.count("event: sent") == 1
        assert (await waiting).status_code == 202
    log = child.spec.log.read_text()
    assert "Traceback" not in log
    assert "Cancel" not in log


async def test_a_second_orchestrator_on_the_same_file_is_told_so(
    database: Database, tmp_path: Path
) -> None:
    async with _serving(database, tmp_path, bare=False) as (first, _):
        port = str(free_port())
        second = replace(
            first.spec,
            command=(*first.spec.command[:-1], port),
            url=f"http://127.0.0.1:{port}",
            log=tmp_path / "second.log",
        )
        child = await Child.start(second)
        guardian().entrust_process(child.pid)
        assert await asyncio.wait_for(child.wait(), 30) == 2
    told = second.log.read_text()
    assert "Traceback" not in told
    assert re.search(r"^error: .*\n  next: ", told, re.MULTILINE), told


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("SAGABOX_SAGAS", "no_shop:x", "there is no module 'no_shop'"),
        ("SAGABOX_PEERS", "articles", "SAGABOX_PEERS: "),
        ("SAGABOX_PEERS", "articles=http://127.0.0.1:1", "sends commands to comments, and "),
        ("SAGABOX_PEERS", "articles=http://127.0.0.1:1", "orchestrator has no peer comments"),
        ("SAGABOX_PARTICIPANTS", "articles=http://127.0.0.1:1", "sends commands to comments"),
    ],
)
async def test_sagas_and_participants_that_cannot_be_are_told_at_the_terminal(
    database: Database, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    blog = Blog(
        databases={"orchestrator": database.url},
        ports={"orchestrator": free_port()},
        secret=SECRET,
        logs=tmp_path,
    )
    extra = {"SAGABOX_SAGAS": BLOG_SAGAS, variable: value}
    child = await Child.start(blog.spec("orchestrator", extra=extra))
    guardian().entrust_process(child.pid)
    assert await asyncio.wait_for(child.wait(), 30) == 2
    log = child.spec.log.read_text()
    assert told in log
    assert "  next: " in log
    assert "Traceback" not in log


async def test_a_saga_survives_its_orchestrator(database: Database, tmp_path: Path) -> None:
    async with _serving(database, tmp_path, bare=False) as (_, client):
        id = await _start(client)
    async with _serving(database, tmp_path, bare=False) as (_, client):
        answer = await client.get(f"/sagas/{id}")
        assert answer.json()["status"] == "RUNNING"
        again = await client.post(
            "/sagas/delete-article", json={"article_id": answer.json()["key"]}
        )
        if again.status_code != 503:  # the shards of the one before are not free yet
            assert problem(again, 409, "saga-active")["active"] == id


async def test_p8_the_command_serves_with_limits_on_heads(
    database: Database, tmp_path: Path
) -> None:
    async with _serving(database, tmp_path, bare=False) as (_, client):
        told = await client.get("/livez", headers={"x": "a" * MAX_HEAD_BYTES})
        problem(told, 431, "head-too-large")
        told = await client.get("/livez", headers=[("x", "a")] * (MAX_HEAD_LINES + 1))
        problem(told, 431, "head-too-large")
        assert (await client.get("/livez")).status_code == 200
