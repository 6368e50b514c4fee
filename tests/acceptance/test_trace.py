"""All that follows from one request shares its trace, in the logs of three real processes, also
where the orchestrator dies in the middle of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from outbox.wire.traceparent import trace_id
from tests.support.blog.deleting import SERVICES, commented
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(400)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HANDED_OVER = "engine: after commit, before hand-over"


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path) as running:
        running.settings |= {
            "SAGABOX_LOG_FORMAT": "json",
            "SAGABOX_LOG_LEVEL": "debug",
            # No message comes twice because a service took its time.
            "SAGABOX_DELIVERY_TIMEOUT": "20",
        }
        await asyncio.gather(*(running.start(name) for name in SERVICES))
        yield running


class Logs:
    """What the services have logged, line by line."""

    def __init__(self, blog: RunningBlog) -> None:
        self._blog = blog
        self._seen = dict.fromkeys(SERVICES, 0)

    def mark(self) -> None:
        """Only what comes from now on counts."""
        self._seen = {name: len(self._lines(name)) for name in SERVICES}

    def of_trace(self, trace: str) -> Mapping[str, list[dict[str, Any]]]:
        """The lines with that trace id, by service."""
        return {
            name: [
                line
                for text in self._lines(name)[seen:]
                if (line := json.loads(text)).get("trace_id") == trace
            ]
            for name, seen in self._seen.items()
        }

    def handled(self, trace: str) -> dict[str, list[str]]:
        """The types of the messages of that trace that each service handled."""
        return {
            name: [it["type"].split(".")[1] for it in lines if " handled " in it["event"]]
            for name, lines in self.of_trace(trace).items()
        }

    def _lines(self, name: str) -> list[str]:
        # The last one may be half written.
        return self._blog.log(name).split("\n")[:-1]


async def delete(blog: RunningBlog, article: str, **headers: str) -> str:
    answer = await blog.ask("articles", "DELETE", f"/articles/{article}", headers=headers)
    assert answer.status_code == 202, answer.text
    saga: str = answer.json()["saga_id"]
    return saga


@pytest.mark.parametrize("is_held", [False, True], ids=["completed", "compensated"])
async def test_a_deletion_keeps_its_clients_trace_though_the_orchestrator_is_killed(
    blog: RunningBlog, is_held: bool
) -> None:
    article = await commented(blog)
    if is_held:
        await blog.hold(article)
    await blog.children["orchestrator"].stop()
    # One commit begins the run, and one takes in each answer: the thread is closed, or the pivot
    # was refused, and what comes next is in the outbox.
    child = await blog.start("orchestrator", crash=f"{HANDED_OVER}:{4 if is_held else 3}")
    logs, id_ = Logs(blog), trace_id(TRACE)
    logs.mark()
    saga = await delete(blog, article, traceparent=TRACE)
    await asyncio.wait_for(child.wait(), 40)
    assert child.ending == "SIGKILL"
    assert logs.handled(id_) == {
        "orchestrator": ["start-saga"],
        "articles": ["hide-article", "delete-article"] if is_held else ["hide-article"],
        "comments": ["close-thread"],
    }
    steps = {it.get("step") for it in logs.of_trace(id_)["orchestrator"] if it.get("saga") == saga}
    assert "hide article" in steps

    logs.mark()
    await blog.start("orchestrator")
    assert await blog.until_ended(saga) == ("COMPENSATED" if is_held else "COMPLETED")
    await until(lambda: "saga-ended" in logs.handled(id_)["articles"], what="the news of the end")
    after = logs.handled(id_)
    if is_held:
        assert {"unhide-article", "saga-ended"} == set(after["articles"])
        assert set(after["comments"]) == {"reopen-thread"}
    else:
        assert {"delete-article", "saga-ended"} == set(after["articles"])
        assert {"purge-thread"} <= set(after["comments"]) <= {"purge-thread", "article-deleted"}
    ends: list[dict[str, Any]] = []

    def is_told() -> bool:
        lines = logs.of_trace(id_)["orchestrator"]
        ends[:] = [it for it in lines if it["event"].startswith("delete-article ended")]
        return bool(ends)

    await until(is_told, what="the orchestrator logs the end")
    (end,) = ends
    assert (end["level"], end["saga"], end["saga_name"]) == ("info", saga, "delete-article")
    for lines in logs.of_trace(id_).values():
        assert {it["saga"] for it in lines if "saga" in it} == {saga}
    shown = await blog.saga(saga)
    assert shown is not None
    assert shown["trace_id"] == id_


async def test_a_request_without_a_trace_gets_one_that_all_services_log(
    blog: RunningBlog,
) -> None:
    articles = [await commented(blog, 1) for _ in range(2)]
    sagas = [await delete(blog, article) for article in articles]
    logs, ids = Logs(blog), []
    for saga in sagas:
        assert await blog.until_ended(saga) == "COMPLETED"
        shown = await blog.saga(saga)
        assert shown is not None
        ids.append(shown["trace_id"])
    assert len(set(ids)) == 2
    # It is the request's own, not one that the orchestrator made up.
    assert not {it.replace("-", "") for it in sagas} & set(ids)
    for saga, id_ in zip(sagas, ids, strict=True):
        handled = logs.handled(id_)
        assert handled["orchestrator"] == ["start-saga"]
        assert {"close-thread", "purge-thread"} <= set(handled["comments"])
        assert {"hide-article", "delete-article"} <= set(handled["articles"])
        of_sagas = {it.get("saga") for lines in logs.of_trace(id_).values() for it in lines}
        assert of_sagas - {None} == {saga}
