from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.context import attach, detach
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from outbox.chassis.endpoints.backlog import Backlog, Standing, Waiting
from outbox.chassis.endpoints.metrics import Metrics
from outbox.coordination.progress import Progress
from outbox.ids import derive, first_at
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.tracing import context_of
from outbox.transports.addresses.overview import Overview, Seen
from outbox.transports.addresses.standing import State
from outbox.transports.base import Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.brokers.held.operators import HeldCount
from outbox.transports.brokers.held.rows import State as HeldState
from outbox.wire.envelope import Envelope
from outbox.wire.traceparent import trace_id
from tests.support.outbox.envelopes import an_envelope

NOW = datetime(2030, 1, 1, tzinfo=UTC)
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class _Service:
    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.progress = Progress(self.clock.monotonic)
        self.metrics = Metrics(self.clock, self.progress)
        self.backlogs: list[Backlog] | Exception = []
        self.waiting: list[Waiting] = []
        self.received: list[HeldCount] = []
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
        return Standing(self.backlogs, self.waiting, self.received)

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
        Backlog(
            *("comments", 7, 2, 1, 3, 4, NOW - timedelta(seconds=90)), paused=True, blocked_keys=2
        ),
        Backlog("search", 0, 0, 0, 0, 0, None),
    ]
    figures = await service.figures()
    expected = {
        "sagabox_outbox_unsent_messages": 7,
        "sagabox_outbox_parked_messages": 2,
        "sagabox_outbox_scheduled_messages": 1,
        "sagabox_outbox_held_keys": 3,
        "sagabox_outbox_blocked_keys": 2,
        "sagabox_outbox_dead_letters": 4,
        "sagabox_outbox_pauses": 1,
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
    assert second.registry.get_sample_value(name, labels) == 0
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


async def test_the_addresses_of_a_destination_are_counted_by_their_state(
    service: _Service,
) -> None:
    def seen(state: State) -> Seen:
        return Seen("http://a:1", state, 0, 1, 0, 0, "", 0.0)

    class Several(_Transport):
        def begin(self) -> None:
            pass

        def overview(self) -> Overview:
            states = (State.USABLE, State.USABLE, State.STRANGER)
            return Overview("a,b", None, "no answer", tuple(map(seen, states)), 3, 1)

    answer = Answered([])
    service.metrics.transport("comments", Several(service.clock, answer))
    service.metrics.transport("search", _Transport(service.clock, answer))
    figures = await service.figures()
    for state, count in (("usable", 2), ("ejected", 0), ("stranger", 1)):
        assert _one(figures, "sagabox_addresses", destination="comments", state=state) == count
    assert _one(figures, "sagabox_address_troubles", destination="comments") == 1
    assert _one(figures, "sagabox_address_ejections_total", destination="comments") == 3
    assert _one(figures, "sagabox_address_strangers_total", destination="comments") == 1
    assert not any(("destination", "search") in labels for _, labels in figures)


async def test_a_message_is_timed_from_its_making_or_its_due_time_to_what_settles_it(
    service: _Service,
) -> None:
    made = an_envelope(time=NOW - timedelta(seconds=40))
    due = an_envelope(time=NOW - timedelta(days=9), due=NOW - timedelta(seconds=2))
    replies = [Reply(Outcome.DONE), Reply(Outcome.REFUSED), Reply(Outcome.FAILED)]
    service.metrics.settled("comments", [made, due, made], Answered(replies))
    service.metrics.settled("comments", [made], Unreachable("no", sent=True))
    figures = await service.figures()
    name = "sagabox_relay_latency_seconds"
    assert _one(figures, f"{name}_count", destination="comments") == 2
    assert _one(figures, f"{name}_sum", destination="comments") == 42


async def test_leases_that_were_lost_are_counted(service: _Service) -> None:
    assert _one(await service.figures(), "sagabox_lost_leases_total") == 0
    service.progress.lose_leases(3)
    assert _one(await service.figures(), "sagabox_lost_leases_total") == 3


async def test_what_came_by_a_broker_and_is_held_is_shown_by_state(service: _Service) -> None:
    service.received = [HeldCount(HeldState.WAITING, 3, NOW - timedelta(seconds=9))]
    service.received += [HeldCount(HeldState.BLOCKED, 0, None)]
    figures = await service.figures()
    assert _one(figures, "sagabox_inbox_held_messages", state="waiting") == 3
    assert _one(figures, "sagabox_inbox_held_oldest_seconds", state="waiting") == 9
    assert _one(figures, "sagabox_inbox_held_oldest_seconds", state="blocked") == 0


# Alerts


async def test_what_alerts_look_at_begins_at_0_so_that_the_first_one_is_growth(
    service: _Service,
) -> None:
    figures = await service.figures()
    for outcome in Outcome:
        assert _one(figures, "sagabox_inbox_messages_total", outcome=outcome.value) == 0
    assert _one(figures, "sagabox_outside_call_seconds_count", result="no-answer") == 0


# Exemplars

OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNRECORDED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


async def exemplars(service: _Service) -> dict[str, str]:
    """The traces of the exemplars, by the family."""
    answer = await service.client.get("/metrics", headers={"accept": OPEN_METRICS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    return {
        family.name: sample.exemplar.labels["trace_id"]
        for family in openmetrics_families(answer.text)  # type: ignore[no-untyped-call]  # no types
        for sample in family.samples
        if sample.exemplar is not None
    }


async def test_who_asks_for_openmetrics_gets_the_traces_behind_the_latencies(
    service: _Service,
) -> None:
    class Quiet:
        async def deliver(self, _: Sequence[Envelope]) -> Delivery:
            return Answered([Reply(Outcome.DONE)])

        async def aclose(self) -> None:
            """Nothing to close."""

    transport = service.metrics.transport("comments", Quiet())
    for trace in (TRACE, UNRECORDED):
        token = attach(context_of(trace))
        try:
            await service.client.get("/things/1")
            await transport.deliver([replace(an_envelope(), trace=trace)])
        finally:
            detach(token)
    assert await exemplars(service) == dict.fromkeys(
        (
            "sagabox_http_request_seconds",
            "sagabox_relay_delivery_seconds",
            "sagabox_relay_latency_seconds",
        ),
        trace_id(TRACE),
    )
    # The older format has none.
    await service.figures()


async def test_without_a_recorded_trace_there_are_no_exemplars(service: _Service) -> None:
    await service.client.get("/things/1")
    assert await exemplars(service) == {}
