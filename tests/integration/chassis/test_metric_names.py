"""The names on /metrics follow the rules of the ecosystem, in all three services."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.store.queries import COUNTED_UP_TO
from outbox.chassis.endpoints.queue_metrics import QueueMetrics
from outbox.inbox.purge.questions import Stopped
from outbox.replies import Outcome, Reply
from outbox.transports.base import Unreachable
from outbox.transports.brokers.figures import QueueFigures
from outbox.transports.brokers.partition_reader import Counts
from tests.support.blog.blog import (
    Running,
    articles_app,
    articles_schema,
    comments_app,
    comments_schema,
    running,
)
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import begun, noted_app, orchestrator_schema, put

PREFIX = "sagabox_"
BASE_UNITS = ("seconds", "bytes", "ratio", "celsius", "meters", "volts", "amperes", "joules")
OTHER_UNITS = re.compile(
    r"_(ms|milliseconds|microseconds|us|ns|nanoseconds|minutes|hours|days|kb|mb|kilobytes|"
    r"megabytes|percent|sec|secs|time|duration|count|sum|info|bucket|created)(_|$)"
)
IS_OR_IS_NOT = ("_up", "_running")
"""Gauges that are 0 or 1."""


@pytest.fixture(params=["articles", "comments", "orchestrator"])
async def service(
    request: pytest.FixtureRequest, database_factory: DatabaseFactory
) -> AsyncIterator[Running]:
    match request.param:
        case "articles":
            app = articles_app(database_factory(articles_schema))
        case "comments":
            app = comments_app(database_factory(comments_schema))
        case _:
            app = noted_app(database_factory(orchestrator_schema))
    async with running(app) as service:
        if request.param == "orchestrator":
            await put(service.chassis.database, begun())
        yield service


async def families(service: Running) -> list[Metric]:
    """All that it can show, each with a figure."""
    metrics = service.chassis.metrics
    metrics.received([Reply(Outcome.DONE)])
    metrics.delivered("comments", 1, 0.1, Unreachable("no", sent=False))
    metrics.purged({"orchestrator": Stopped.NO_WAY})
    await service.http.get("/livez")
    answer = await service.http.get("/metrics")
    assert answer.status_code == 200
    assert "sagabox_database_up 1.0" in answer.text
    found = list(text_string_to_metric_families(answer.text))
    assert len(found) >= 6
    return found


def wrong_in(family: Metric) -> list[str]:
    """What is wrong with a family; nothing where it follows the rules."""
    name = family.name
    problems = {
        "has no prefix of ours": not name.startswith(PREFIX),
        "is not in small letters": not re.fullmatch("[a-z][a-z0-9_]*[a-z0-9]", name),
        "has a unit that is none of the base units": OTHER_UNITS.search(name) is not None,
        "has its unit before its end": any(f"_{unit}_" in name for unit in BASE_UNITS),
        "has no type": family.type not in {"counter", "gauge", "histogram"},
        "is no counter and ends with _total": family.type != "counter" and name.endswith("_total"),
        "is a histogram without a unit": family.type == "histogram"
        and not name.endswith(tuple(f"_{unit}" for unit in BASE_UNITS)),
        "does not name what it counts, in the plural": family.type in {"gauge", "counter"}
        and not name.endswith(("s", *IS_OR_IS_NOT)),
        "has no help": len(family.documentation) < 10 or family.documentation.endswith("."),
        "names a label in its name": any(
            f"_{label}" in name for sample in family.samples for label in sample.labels
        ),
        "has a counter's samples under another name": family.type == "counter"
        and {sample.name for sample in family.samples} - {f"{name}_total"} != set(),
    }
    return [f"{name} {problem}" for problem, is_so in problems.items() if is_so]


async def test_every_metric_has_a_name_by_the_rules(service: Running) -> None:
    found = await families(service)
    assert [problem for family in found for problem in wrong_in(family)] == []
    names = [family.name for family in found]
    assert len(set(names)) == len(names)
    assert all(
        sample.labels.keys()
        <= {
            *("destination", "kind", "le", "method", "name", "orchestrator", "outcome", "reason"),
            *("result", "route", "state", "status", "way"),
        }
        for family in found
        for sample in family.samples
    )


def test_the_metrics_of_queues_follow_the_rules_and_tell_what_the_consumer_counted() -> None:
    registry = CollectorRegistry()
    queues = QueueMetrics(registry)
    there, away = "nats at 127.0.0.1:4222", "redis at 127.0.0.1:6379"
    counts = Counts(handled=9, held=3, dead=1, again=2)
    queues.show([QueueFigures(there, counts, 4, 7), QueueFigures(away, Counts(), 0, None)])
    found = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert [problem for family in found for problem in wrong_in(family)] == []
    shown = {
        (sample.name, sample.labels.get("outcome", "")): sample.value
        for family in found
        for sample in family.samples
        if sample.labels["broker"] == there and not sample.name.endswith("_created")
    }
    assert shown == {
        ("sagabox_queue_packets_total", "handled"): 9,
        ("sagabox_queue_packets_total", "held"): 2,
        ("sagabox_queue_packets_total", "dead"): 1,
        ("sagabox_queue_packets_total", "again"): 2,
        ("sagabox_queue_partitions", ""): 4,
        ("sagabox_queue_waiting_packets", ""): 7,
        ("sagabox_queue_up", ""): 1,
    }
    (up,) = [it for it in found if it.name == "sagabox_queue_up"]
    assert [it.value for it in up.samples if it.labels["broker"] == away] == [0]


@pytest.mark.parametrize(
    ("name", "type", "problem"),
    [
        ("outbox_messages", "counter", "prefix"),
        ("sagabox_relay_milliseconds", "gauge", "base units"),
        ("sagabox_seconds_waited", "gauge", "before its end"),
        ("sagabox_messages_total", "gauge", "ends with _total"),
        ("sagabox_relay_messages_created", "gauge", "base units"),
        ("sagabox_requests", "histogram", "without a unit"),
        ("sagabox_outbox_unsent", "gauge", "what it counts"),
    ],
)
def test_a_name_against_the_rules_is_found(name: str, type: str, problem: str) -> None:
    found = wrong_in(Metric(name, "What it is about", type))
    assert any(problem in it for it in found), found


async def test_help_says_where_a_count_ends(service: Running) -> None:
    bounded = [
        it.documentation
        for it in await families(service)
        if it.name
        in {
            "sagabox_sagas",
            "sagabox_outbox_unsent_messages",
            "sagabox_inbox_pending_commands",
        }
    ]
    assert bounded
    assert all(f"{COUNTED_UP_TO:,}" in it for it in bounded)
