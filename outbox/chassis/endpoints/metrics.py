"""/metrics, in the text format of Prometheus, from a registry that belongs to one service.

Requests, deliveries and the inbox's answers are counted as they happen. The outbox's backlog and
what is pending are read from the database at each scrape. Who asks for OpenMetrics gets exemplars,
too: traces that a collector has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, assert_never

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outbox.chassis.endpoints.address_metrics import AddressMetrics
from outbox.chassis.endpoints.backlog import Standing
from outbox.chassis.endpoints.exposition import OPEN_METRICS, written
from outbox.chassis.endpoints.queue_metrics import QueueMetrics
from outbox.chassis.endpoints.standing_metrics import StandingMetrics
from outbox.clock import Clock
from outbox.coordination.progress import Progress
from outbox.inbox.batches import holds_key
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.outside.call import NO_ANSWER
from outbox.inbox.purge.questions import Stopped
from outbox.inbox.runners import Sessions
from outbox.inbox.transactions.terms import Told
from outbox.replies import Outcome, Reply
from outbox.tracing import current, exemplar
from outbox.transports.base import (
    Accepted,
    Answered,
    Delivery,
    Transport,
    Unacceptable,
    Unreachable,
)
from outbox.transports.brokers.figures import QueueFigures
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNKNOWN = "(unknown)"
_MOST_SENDERS = 100
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


async def _no_queues() -> Sequence[QueueFigures]:
    return ()


class Metrics:
    """The metrics of one service."""

    def __init__(self, clock: Clock, progress: Progress) -> None:
        self._clock = clock
        self._progress = progress
        self.registry = CollectorRegistry()
        self._senders: set[str] = set()
        self._requests = Histogram(
            "sagabox_http_request_seconds",
            "Time from the first byte of a request to the last of its answer",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._deliveries = Histogram(
            "sagabox_relay_delivery_seconds",
            "Time that a destination took for one batch",
            ["destination", "result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._delivered = Counter(
            "sagabox_relay_messages",
            "Messages handed to a destination, by its answer",
            ["destination", "outcome"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "sagabox_relay_latency_seconds",
            "Time from when a message was made, or was to leave, to the answer that settled it",
            ["destination"],
            buckets=(*_SECONDS, 30.0, 60.0, 300.0, 1800.0, 3600.0, 86400.0),
            registry=self.registry,
        )
        self._received = Counter(
            "sagabox_inbox_messages",
            "Messages received, by the answer they were given",
            ["outcome"],
            registry=self.registry,
        )
        self._calls = Histogram(
            "sagabox_outside_call_seconds",
            "Time that a call to the outside took, from its storing",
            ["result"],
            buckets=(*_SECONDS, 30.0, 60.0),
            registry=self.registry,
        )
        self._skew = Gauge(
            "sagabox_clock_skew_seconds",
            "Seconds by which the clock of a sender is ahead of the one here, at its last request",
            ["sender"],
            registry=self.registry,
        )
        # Prometheus sees no growth in a series that begins above 0, so that the first message which
        # is not understood would raise no alert.
        for outcome in Outcome:
            self._received.labels(outcome.value)
        self._calls.labels(NO_ANSWER)
        self._stopped_purges = Gauge(
            "sagabox_inbox_stopped_purges",
            "Purges that leave old rows since nothing tells whether those sagas have ended: 0 or 1",
            ["orchestrator", "reason"],
            registry=self.registry,
        )
        self._stalled = Gauge(
            "sagabox_work_stalled_seconds",
            "Time since work of this kind began or got on, while none has ended; 0 without work",
            ["kind"],
            registry=self.registry,
        )
        self._calls_taken: list[Callable[[], int]] = []
        self._threads_given_up: list[Callable[[], int]] = []
        self._standing = StandingMetrics(self.registry)
        self._addresses = AddressMetrics(self.registry)
        self.registry.register(_LostLeases(progress))
        self._queues = QueueMetrics(self.registry)

    def http(self, app: ASGIApp) -> ASGIApp:
        """`app`, with its requests counted and timed by route and status."""

        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500
            begun = self._clock.monotonic()

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                method = scope["method"] if scope["method"] in _METHODS else _UNKNOWN
                # The template of the address: the address itself would make a series per article.
                route = getattr(scope.get("route"), "path", _UNKNOWN)
                took = self._clock.monotonic() - begun
                self._requests.labels(method, route, str(status)).observe(took, _this_trace())

        return timed

    def inbox(self, handlers: Handlers, sessions: Sessions, **options: Any) -> Inbox:
        """An inbox with these options, whose answers and purges are counted."""
        return MeteredInbox(handlers, sessions, metrics=self, **options)

    def transport(self, destination: str, transport: Transport) -> Transport:
        """`transport`, with what goes through it counted under the destination's name."""
        self._addresses.watch(destination, transport)
        return _MeteredTransport(self, destination, transport, self._clock)

    def delivered(self, destination: str, count: int, took: float, delivery: Delivery) -> None:
        """Note one batch of `count` messages that took `took` seconds."""
        match delivery:
            case Answered(replies):
                result = "answered"
                for reply in replies:
                    self._delivered.labels(destination, reply.outcome.value).inc()
            case Accepted():
                result = "accepted"
                self._delivered.labels(destination, result).inc(count)
            case Unreachable():
                result = "unreachable"
                self._delivered.labels(destination, result).inc(count)
            case Unacceptable():
                result = "unacceptable"
                self._delivered.labels(destination, result).inc(count)
            case other:
                assert_never(other)
        self._deliveries.labels(destination, result).observe(took, _this_trace())

    def settled(self, destination: str, envelopes: Sequence[Envelope], delivery: Delivery) -> None:
        """Note how long the messages took that this delivery settled."""
        match delivery:
            case Answered(replies) if len(replies) == len(envelopes):
                pairs = zip(envelopes, replies, strict=True)
                gone = [envelope for envelope, reply in pairs if not holds_key(reply)]
            case Accepted():
                gone = list(envelopes)
            case _:
                return
        latency, now = self._latency.labels(destination), self._clock.now()
        for envelope in gone:
            took = max(0.0, (now - (envelope.due or envelope.time)).total_seconds())
            latency.observe(took, exemplar(envelope.trace))

    def received(self, replies: Sequence[Reply]) -> None:
        """Note what the inbox answered."""
        for reply in replies:
            self._received.labels(reply.outcome.value).inc()

    def handler_threads(self, given_up: Callable[[], int]) -> None:
        """Show how many threads of this inbox, too, go on after their handler was given up."""
        self._threads_given_up.append(given_up)
        if len(self._threads_given_up) > 1:
            return
        Gauge(
            "sagabox_handler_threads_given_up",
            "Threads that go on after their handler took too long; each takes up a place",
            registry=self.registry,
        ).set_function(lambda: sum(it() for it in self._threads_given_up))

    def calls_made(self, taken: Callable[[], int]) -> None:
        """Show how many calls to the outside this inbox makes, too."""
        self._calls_taken.append(taken)
        if len(self._calls_taken) > 1:
            return
        Gauge(
            "sagabox_outside_calls",
            "Calls to the outside that are made, and threads that go on after their time",
            registry=self.registry,
        ).set_function(lambda: sum(it() for it in self._calls_taken))

    def called(self, result: str, seconds: float) -> None:
        """Note a call to the outside that has ended."""
        self._calls.labels(result).observe(seconds)

    def skewed(self, sender: str, seconds: float) -> None:
        """Note by how much a sender's clock is ahead."""
        if sender in self._senders or len(self._senders) < _MOST_SENDERS:
            self._senders.add(sender)
            self._skew.labels(sender).set(seconds)

    def purged(self, stopped: Mapping[str, Stopped]) -> None:
        """Note the rows that a purge had to leave, by the orchestrator that says too little."""
        self._stopped_purges.clear()
        for orchestrator, reason in stopped.items():
            self._stopped_purges.labels(orchestrator, reason.value).set(1)

    def router(
        self,
        standing: Callable[[], Awaitable[Standing]],
        *,
        relay_runs: Callable[[], bool],
        queues: Callable[[], Awaitable[Sequence[QueueFigures]]] = _no_queues,
        timeout: float = 5.0,
    ) -> APIRouter:
        """The route /metrics. Without its database a service still shows the metrics that it
        counted itself."""
        routes = APIRouter(tags=["operation"])

        @routes.get(
            "/metrics",
            summary="The service's figures, for Prometheus",
            response_class=Response,
            responses={
                200: {
                    "content": {
                        "text/plain": {"schema": {"type": "string"}},
                        OPEN_METRICS: {"schema": {"type": "string"}},
                    }
                }
            },
        )
        async def metrics(request: Request) -> Response:
            found: Standing | None = None
            try:
                async with asyncio.timeout(timeout):
                    found = await standing()
            except Exception as error:
                log.warning("the tables cannot be read for /metrics: %s", error)
            self._standing.show(found, self._clock, relay_runs())
            self._queues.show(await queues())
            for kind, seconds in self._progress.stalled.items():
                self._stalled.labels(kind).set(seconds)
            return written(self.registry, request.headers.get("accept", ""))

        return routes


def _this_trace() -> dict[str, str] | None:
    return exemplar(current())


class _LostLeases(Collector):
    """The count of lost leases, read when it is scraped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "sagabox_lost_leases",
            "Leases of this process that expired before they were renewed",
            value=self._progress.lost_leases,
        )


class _MeteredTransport:
    """A transport that reports each delivery."""

    def __init__(self, metrics: Metrics, destination: str, inner: Transport, clock: Clock) -> None:
        self._metrics = metrics
        self._destination = destination
        self._inner = inner
        self._clock = clock

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        begun = self._clock.monotonic()
        delivery = await self._inner.deliver(envelopes)
        took = self._clock.monotonic() - begun
        self._metrics.delivered(self._destination, len(envelopes), took, delivery)
        self._metrics.settled(self._destination, envelopes, delivery)
        return delivery

    async def aclose(self) -> None:
        await self._inner.aclose()


class MeteredInbox(Inbox):
    """An inbox that reports its answers."""

    def __init__(
        self,
        handlers: Handlers,
        sessions: Sessions,
        *,
        clock: Clock,
        limits: InboxLimits,
        metrics: Metrics,
        progress: Progress,
        peers: Collection[str] = (),
        told: Told | None = None,
    ) -> None:
        super().__init__(
            handlers,
            sessions,
            clock=clock,
            limits=limits,
            told=told,
            peers=peers,
            progress=progress,
        )
        self._metrics = metrics
        metrics.calls_made(lambda: self.calls.taken)
        if (threads := self.threads) is not None:
            metrics.handler_threads(lambda: threads.given_up)

    def count_call(self, result: str, seconds: float) -> None:
        """As `Inbox.count_call`."""
        self._metrics.called(result, seconds)

    async def purge(self) -> int:
        """As `Inbox.purge`."""
        gone = await super().purge()
        self._metrics.purged(self.stopped)
        return gone

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> list[Reply]:
        """As `Inbox.receive`."""
        replies = await super().receive(envelopes, settled)
        self._metrics.received(replies)
        return replies
