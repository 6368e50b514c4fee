from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from outbox.chassis.endpoints.backlog import Backlog, Standing, Waiting
from outbox.chassis.endpoints.metrics import Metrics
from outbox.coordination.progress import Progress
from outbox.ids import derive, first_at
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.transports.base import Answered, Delivery, Unacceptable, Unreachable
from outbox.wire.envelope import Envelope

NOW = datetime(2030, 1, 1, tzinfo=UTC)
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class _Service:
    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.progress = Progress(self.clock.monotonic)
        self.metrics = Metrics(self.clock, self.progress)
        self.backlogs: list[Backlog] | Exception = []
        self.waiting: list[Waiting] = []
        self.relay_runs = True
        app = FastAPI()

        @app.get("/things/{id}")
        async def thing(id: str) -> str:
            self.clock.advance(0.02)
            if id == "boom":
                raise RuntimeError
            return id

        app.include_router(self.metrics.router(self._standing, relay_runs=lambda: self.relay_runs))
        app.add_middleware(self.metrics.http)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def _standing(self) -> Standing:
        if isinstance(self.backlogs, Exception):
            raise self.backlogs
        return Standing(self.backlogs, self.waiting)

    async def figures(self) -> Figures:
        answer = await self.client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }


@pytest.fixture
def service() -> _Service:
    return _Service()


def _one(figures: Figures, name: str, **labels: str) -> float:
    return figures[(name, tuple(sorted(labels.items())))]


async def test_requests_are_counted_and_timed_by_route_and_status(service: _Service) -> None:
    for path in ("/things/1", "/things/2", "/things/boom", "/nowhere/1", "/nowhere/2"):
        await service.client.get(path)
    figures = await service.figures()
    name = "sagabox_http_request_seconds"
    good = {"method": "GET", "route": "/things/{id}", "status": "200"}
    assert _one(figures, f"{name}_count", **good) == 2
    assert _one(figures, f"{name}_sum", **good) == pytest.approx(0.04)
    assert _one(figures, f"{name}_count", **(good | {"status": "500"})) == 1
    assert _one(figures, f"{name}_count", method="GET", route="(unknown)", status="404") == 2


async def test_made_up_methods_make_no_series_of_their_own(service: _Service) -> None:
    for number in range(3):
        await service.client.request(f"M{number}", "/nowhere")
    figures = await service.figures()
    methods = {dict(labels).get("method") for _, labels in figures}
    assert methods - {None} == {"(unknown)"}


async def test_what_stands_in_the_outbox_is_shown_per_destination(service: _Service) -> None:
    service.backlogs = [
        Backlog("comments", 7, 2, 1, 3, 4, NOW - timedelta(seconds=90)),
        Backlog("search", 0, 0, 0, 0, 0, None),
    ]
    figures = await service.figures()
    expected = {
        "sagabox_outbox_unsent_messages": 7,
        "sagabox_outbox_parked_messages": 2,
        "sagabox_outbox_scheduled_messages": 1,
        "sagabox_outbox_held_keys": 3,
        "sagabox_outbox_dead_letters": 4,
        "sagabox_outbox_oldest_seconds": 90,
    }
    for name, value in expected.items():
        assert _one(figures, name, destination="comments") == value
        assert _one(figures, name, destination="search") == 0
    assert _one(figures, "sagabox_database_up") == 1
    assert _one(figures, "sagabox_relay_running") == 1


async def test_what_is_pending_is_shown_by_kind_with_the_age_of_the_oldest(
    service: _Service,
) -> None:
    service.waiting = [
        Waiting("calling", 0, None),
        Waiting("waiting", 3, NOW - timedelta(days=2)),
    ]
    figures = await service.figures()
    assert _one(figures, "sagabox_inbox_pending_commands", kind="calling") == 0
    assert _one(figures, "sagabox_inbox_pending_oldest_seconds", kind="calling") == 0
    assert _one(figures, "sagabox_inbox_pending_commands", kind="waiting") == 3
    assert _one(figures, "sagabox_inbox_pending_oldest_seconds", kind="waiting") == 2 * 86400
    service.backlogs = ConnectionRefusedError()
    assert not [name for name, _ in await service.figures() if "pending" in name]


async def test_without_its_database_a_service_shows_no_old_figures(service: _Service) -> None:
    service.backlogs = [Backlog("comments", 7, 2, 1, 3, 4, NOW)]
    await service.figures()
    service.backlogs, service.relay_runs = ConnectionRefusedError(), False
    figures = await service.figures()
    assert not [name for name, _ in figures if name.startswith("sagabox_outbox_")]
    assert _one(figures, "sagabox_database_up") == 0
    assert _one(figures, "sagabox_relay_running") == 0


class _Transport:
    def __init__(self, clock: FakeClock, delivery: Delivery) -> None:
        self.clock = clock
        self.delivery = delivery
        self.closed = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.clock.advance(0.2)
        return self.delivery

    async def aclose(self) -> None:
        self.closed = True


async def test_deliveries_are_counted_by_what_the_destination_answered(service: _Service) -> None:
    saga = first_at(NOW)
    batch = [
        Envelope(derive(saga, str(n)), "articles", "a.b.v1", "k", NOW, b"{}") for n in range(3)
    ]
    answered = Answered([Reply(Outcome.DONE), Reply(Outcome.DONE), Reply(Outcome.LOCKED)])
    deliveries: list[Delivery] = [answered, Unreachable("no", sent=False), Unacceptable("no")]
    for delivery in deliveries:
        inner = _Transport(service.clock, delivery)
        metered = service.metrics.transport("comments", inner)
        assert await metered.deliver(batch) is delivery
        await metered.aclose()
        assert inner.closed
    figures = await service.figures()
    name = "sagabox_relay_messages_total"
    for outcome, count in {"done": 2, "locked": 1, "unreachable": 3, "unacceptable": 3}.items():
        assert _one(figures, name, destination="comments", outcome=outcome) == count
    seconds = "sagabox_relay_delivery_seconds_sum"
    assert _one(figures, seconds, destination="comments", result="answered") == pytest.approx(0.2)


async def test_the_answers_of_the_inbox_are_counted(service: _Service) -> None:
    service.metrics.received([Reply(Outcome.DONE), Reply(Outcome.DONE), Reply(Outcome.REFUSED)])
    figures = await service.figures()
    assert _one(figures, "sagabox_inbox_messages_total", outcome="done") == 2
    assert _one(figures, "sagabox_inbox_messages_total", outcome="refused") == 1


def test_two_services_in_one_process_share_no_figures() -> None:
    first, second = (Metrics(it, Progress(it.monotonic)) for it in (FakeClock(), FakeClock()))
    first.received([Reply(Outcome.DONE)])
    name, labels = "sagabox_inbox_messages_total", {"outcome": "done"}
    assert first.registry.get_sample_value(name, labels) == 1
    assert second.registry.get_sample_value(name, labels) is None
    assert REGISTRY.get_sample_value(name, labels) is None


async def test_work_that_goes_on_is_shown_with_its_seconds_and_other_work_with_none(
    service: _Service,
) -> None:
    with service.progress.of("tend the leases"):
        pass
    service.progress.of("handle messages").begin()
    service.clock.advance(90)
    figures = await service.figures()
    name = "sagabox_work_stalled_seconds"
    assert _one(figures, name, kind="handle messages") == 90
    assert _one(figures, name, kind="tend the leases") == 0


async def test_the_clocks_of_senders_are_shown_of_so_many_at_most(service: _Service) -> None:
    service.metrics.skewed("articles", -40.0)
    for number in range(200):
        service.metrics.skewed(f"made up {number}", 1.0)
    service.metrics.skewed("articles", 90.5)
    figures = await service.figures()
    assert _one(figures, "sagabox_clock_skew_seconds", sender="articles") == 90.5
    assert sum(name == "sagabox_clock_skew_seconds" for name, _ in figures) == 100
