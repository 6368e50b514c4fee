"""A real Prometheus that scrapes the running blog: what each panel and each rule asks for is there,
and alerts fire and go quiet."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI

from outbox.chassis.endpoints.backlog import Standing
from outbox.chassis.endpoints.metrics import Metrics
from outbox.clock import SystemClock
from outbox.coordination.progress import Progress
from outbox.destinations import operators as destinations
from outbox.transports.brokers.figures import QueueFigures
from outbox.transports.brokers.partition_reader import Counts
from outbox.wire.traceparent import trace_id
from tests.acceptance.test_deletion_faults import intervene
from tests.acceptance.test_deletion_repairs import spoil_threads, until_stuck
from tests.support.blog.deleting import commented, start_all
from tests.support.fixtures import MakeEngine
from tests.support.http.servers import serving
from tests.support.outbox.letters import a_letter, bury
from tests.support.processes.cli import sagabox
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until
from tests.support.telemetry import dashboards
from tests.support.telemetry.prometheus import Prometheus, at, prometheus
from tests.support.telemetry.rules import FOLDER, metrics_in, rules

pytestmark = [pytest.mark.timeout(600), pytest.mark.databases("sqlite")]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BROKER = "nats at 127.0.0.1:4222"


async def queues() -> Sequence[QueueFigures]:
    return [QueueFigures(BROKER, Counts(handled=3), 16, 5)]


async def nothing() -> Standing:
    return Standing((), ())


@asynccontextmanager
async def another_service() -> AsyncIterator[str]:
    """The figures of a service as the blog has none: it reads a queue, and has threads."""
    clock = SystemClock()
    metrics = Metrics(clock, Progress(clock.monotonic))
    metrics.handler_threads(lambda: 0)
    app = FastAPI()
    app.include_router(metrics.router(nothing, relay_runs=lambda: True, queues=queues))
    async with serving(app) as address:
        yield address.removeprefix("http://")


async def token_of(blog: RunningBlog) -> str:
    """A viewer's token, which articles and comments take, too."""
    told = await asyncio.to_thread(
        sagabox,
        *("token", "create", "prometheus", "--role", "viewer", "--json"),
        SAGABOX_DATABASE_URL_ORCHESTRATOR=blog.databases["orchestrator"].url,
    )
    made: str = json.loads(told.out)["token"]
    return made


@asynccontextmanager
async def scraping(blog: RunningBlog, folder: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus with the configuration of compose, before the blog, which it starts."""
    token = folder / "token"
    token.write_text(await token_of(blog))
    blog.settings |= {
        "SAGABOX_METRICS_TOKEN": token.read_text(),
        "SAGABOX_SAGAS": "tests.support.blog.impatient:delete_article",
        # Else a service that takes its time is asked twice, and what it answers late is an alert.
        "SAGABOX_DELIVERY_TIMEOUT": "20",
    }
    await start_all(blog)
    async with another_service() as elsewhere:
        targets = {name: blog.url(name).removeprefix("http://") for name in blog.databases}
        configuration = at(FOLDER / "prometheus.yml", targets, token)
        configuration["scrape_configs"].append(
            {"job_name": "elsewhere", "static_configs": [{"targets": [elsewhere]}]}
        )
        options = ["--enable-feature=exemplar-storage"]
        async with prometheus(configuration, folder / "prometheus", options) as server:

            async def reached() -> bool:
                return set((await server.up()).values()) == {"up"}

            await until(reached, deadline=40, what=f"every target is up: {await server.up()}")
            yield server


async def delete_one(blog: RunningBlog) -> None:
    article = await commented(blog, 1)
    answer = await blog.ask(
        "articles", "DELETE", f"/articles/{article}", headers={"traceparent": TRACE}
    )
    assert await blog.until_ended(answer.json()["saga_id"]) == "COMPLETED"


def figures_in(samples: list[dict[str, list[str]]]) -> list[float]:
    return [it for it in (float(sample["value"][1]) for sample in samples) if not math.isnan(it)]


async def test_each_panel_and_each_rule_finds_what_it_asks_for_and_nothing_fires(
    blog: RunningBlog, tmp_path: Path
) -> None:
    asked = {
        (name, title, it.replace("$__rate_interval", "1m").replace("$job", ".*"))
        for name, title, it in dashboards.queries()
    }
    assert len(asked) > 50
    async with scraping(blog, tmp_path) as server:
        missing = set(asked)

        async def all_are_there() -> bool:
            await delete_one(blog)
            for it in sorted(missing):
                if figures_in(await server.query(it[2])):
                    missing.discard(it)
            return not missing

        try:
            await until(all_are_there, deadline=60, what="every panel has data")
        except AssertionError:
            pytest.fail(f"these panels have no data: {missing}")

        async def are_judged() -> bool:
            groups = (await server.get("rules"))["groups"]
            found = {it["name"]: it["health"] for group in groups for it in group["rules"]}
            return found == {it.alert: "ok" for it in rules()}

        await until(are_judged, deadline=40, what="every rule was judged")
        known = {it.removesuffix("_total") for it in await server.known()}
        for rule in rules():
            named = {
                it.removesuffix("_total").removesuffix("_count")
                for it in metrics_in(rule.expression)
            }
            assert named <= known, rule.alert
        assert await server.firing() == set()

        found = await server.get(
            "query_exemplars",
            query="sagabox_http_request_seconds_bucket",
            start="0",
            end="4102444800",
        )
        traces = {it["labels"]["trace_id"] for series in found for it in series["exemplars"]}
        assert trace_id(TRACE) in traces


async def test_alerts_fire_for_a_run_that_is_stuck_a_dead_letter_and_a_pause_and_go_quiet(
    blog: RunningBlog, tmp_path: Path, make_engine: MakeEngine
) -> None:
    wanted = {"SagaboxRunStuck", "SagaboxDeadLetter", "SagaboxDestinationPaused"}
    async with scraping(blog, tmp_path) as server:

        async def fire(names: set[str]) -> None:
            async def is_so() -> bool:
                return await server.firing() & wanted == names

            await until(is_so, deadline=40, what=f"these alerts fire: {names}")

        await fire(set())
        article = await commented(blog, 1)
        await blog.hold(article)
        spoil_threads(blog.databases["comments"])
        saga = await blog.delete(article)
        await until_stuck(blog, [saga])
        await fire({"SagaboxRunStuck"})

        letter = a_letter(1)
        engine = make_engine(blog.databases["articles"])
        await bury(engine, letter)
        await fire({"SagaboxRunStuck", "SagaboxDeadLetter"})
        async with engine.begin() as connection:
            now = SystemClock().now()
            await destinations.pause(connection, "partner", reason="it is gone", now=now)
        await fire(wanted)

        await intervene(blog, saga, "resolve")
        await fire(wanted - {"SagaboxRunStuck"})
        dropped = await asyncio.to_thread(
            sagabox,
            *("outbox", "drop", letter["id"], "--database", blog.databases["articles"].url),
        )
        assert dropped.code == 0, dropped
        async with engine.begin() as connection:
            assert await destinations.resume(connection, "partner")
        await fire(set())
