"""The spans of three real processes at a collector, and what its absence costs: spans alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from outbox.chassis.span_export import ENDPOINT
from outbox.wire.traceparent import span_id, trace_id
from tests.support.blog.deleting import SERVICES, commented
from tests.support.fixtures import DatabaseFactory
from tests.support.http.servers import Exchange, scripted
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import free_port, until
from tests.support.telemetry.collector import Collected, collecting

pytestmark = [pytest.mark.timeout(400), pytest.mark.databases("sqlite")]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "200"}


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path) as running:
        yield running


async def started(blog: RunningBlog, collector: str) -> None:
    blog.settings |= {ENDPOINT: collector, **OFTEN}
    await asyncio.gather(*(blog.start(name) for name in SERVICES))


async def deleted(blog: RunningBlog) -> str:
    """The saga of a deletion in TRACE that has ended."""
    article = await commented(blog)
    answer = await blog.ask(
        "articles", "DELETE", f"/articles/{article}", headers={"traceparent": TRACE}
    )
    assert answer.status_code == 202, answer.text
    saga: str = answer.json()["saga_id"]
    assert await blog.until_ended(saga) == "COMPLETED"
    return saga


def one(spans: list[Collected], name: str, **attributes: str) -> Collected:
    """The first span of that name with these attributes. A message may come twice."""
    wanted = {it.replace("_", "."): value for it, value in attributes.items()}
    found = [it for it in spans if it.name == name and wanted.items() <= it.attributes.items()]
    assert found, (name, wanted, sorted({it.name for it in spans}))
    return found[0]


def above(spans: list[Collected], span: Collected) -> set[str]:
    """The ids above the span. FastAPI may put spans of its own between ours."""
    parents = {it.id: it.parent for it in spans}
    found: set[str] = set()
    next_ = span.parent
    while next_ not in ("", *found):
        found.add(next_)
        next_ = parents.get(next_, "")
    return found


async def test_a_deletion_is_one_trace_at_the_collector_across_all_services(
    blog: RunningBlog,
) -> None:
    async with collecting() as collector:
        await started(blog, collector.address)
        saga = await deleted(blog)
        # What is left is sent when they stop.
        await blog.stop()
        assert [it.ending for it in blog.children.values()] == ["exit code 0"] * 3
        spans = collector.of_trace(trace_id(TRACE))
    assert {it.service for it in spans} == set(SERVICES)
    request = one(spans, "DELETE /articles/{id}")
    assert (request.service, request.parent) == ("articles", span_id(TRACE))
    begun = one(spans, "create orchestrator.start-saga.v1")
    assert request.id in above(spans, begun)
    taken = one(spans, "process orchestrator.start-saga.v1")
    assert (taken.service, taken.parent) == ("orchestrator", begun.id)

    whole = one(spans, "saga delete-article", sagabox_saga_status="COMPLETED")
    assert whole.attributes["sagabox.saga.id"] == saga
    steps = [
        ("hide article", "articles.hide-article.v1", "articles"),
        ("close thread", "comments.close-thread.v1", "comments"),
        ("delete article", "articles.delete-article.v1", "articles"),
        ("purge comments", "comments.purge-thread.v1", "comments"),
    ]
    before: frozenset[str] = frozenset()
    for step, type_, participant in steps:
        made = one(spans, f"create {type_}", sagabox_saga_step=step)
        assert made.parent == whole.parent
        assert before <= made.links, step
        before = frozenset({made.id})
        handled = one(spans, f"process {type_}")
        assert (handled.service, handled.parent) == (participant, made.id)
        sent = [
            it for it in collector.spans if it.name == f"send {participant}" and made.id in it.links
        ]
        assert sent, step
        received = [
            it
            for it in collector.spans
            if it.name == "POST /messages" and it.parent in {each.id for each in sent}
        ]
        assert {it.service for it in received} == {participant}


async def test_without_a_collector_sagas_end_services_stop_and_the_log_says_it_once(
    blog: RunningBlog,
) -> None:
    port = free_port()
    await started(blog, f"http://127.0.0.1:{port}")
    await deleted(blog)
    lost = f"http://127.0.0.1:{port} takes no spans"
    await until(lambda: all(lost in blog.log(it) for it in SERVICES), what="the trouble is told")
    async with collecting(at=port) as collector:
        await until(
            lambda: {it.service for it in collector.spans} == set(SERVICES),
            deadline=40,
            what="what came later is there",
        )
        await blog.stop()
    assert [it.ending for it in blog.children.values()] == ["exit code 0"] * 3
    for name in SERVICES:
        assert blog.log(name).count(lost) == 1
        assert "takes spans again" in blog.log(name)


async def test_a_collector_that_never_answers_holds_up_neither_a_saga_nor_the_end(
    blog: RunningBlog,
) -> None:
    reached = asyncio.Event()

    async def never(_: Exchange) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with scripted(never) as silent:
        # The SDK would wait for a whole minute for each request, and for 30 s at the end.
        blog.settings |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
        await started(blog, silent.address)
        await deleted(blog)
        await asyncio.wait_for(reached.wait(), 40)
        # It is killed after 18 s, which would be its ending.
        await blog.stop()
    assert [it.ending for it in blog.children.values()] == ["exit code 0"] * 3
    assert any("the last spans are lost" in blog.log(it) for it in SERVICES)


async def test_a_collector_that_refuses_is_told_with_its_reason_and_the_rest_goes_on(
    blog: RunningBlog,
) -> None:
    async with collecting() as collector:
        collector.status = 401
        await started(blog, collector.address)
        await deleted(blog)
        await until(
            lambda: "takes no spans" in blog.log("orchestrator"), what="the trouble is told"
        )
    assert "401" in blog.log("orchestrator")
