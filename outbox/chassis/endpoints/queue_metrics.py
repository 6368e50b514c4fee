"""The metrics of the queues that a service reads: what waits at the broker, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from outbox.transports.brokers.figures import QueueFigures


class QueueMetrics(Collector):
    """The figures that were shown to it last. The label `broker` is an address without a secret."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: Sequence[QueueFigures] = ()
        registry.register(self)

    def show(self, queues: Sequence[QueueFigures]) -> None:
        """Show these from now."""
        self._shown = queues

    def collect(self) -> Iterator[Metric]:
        """As Prometheus asks. A service that reads no queue has none of these."""
        if not self._shown:
            return
        packets = CounterMetricFamily(
            "sagabox_queue_packets",
            "Packets that were handled, were set aside to be tried again or for a person, or came "
            "again at once",
            labels=["broker", "outcome"],
        )
        partitions = GaugeMetricFamily(
            "sagabox_queue_partitions",
            "Partitions of the service's queue that this process reads",
            labels=["broker"],
        )
        waiting = GaugeMetricFamily(
            "sagabox_queue_waiting_packets",
            "Packets of the service's queue that no process is done with",
            labels=["broker"],
        )
        up = GaugeMetricFamily(
            "sagabox_queue_up", "1 if the broker answered this scrape", labels=["broker"]
        )
        for queue in self._shown:
            counts = queue.counts
            for outcome, count in {
                "handled": counts.handled,
                "held": counts.held - counts.dead,
                "dead": counts.dead,
                "again": counts.again,
            }.items():
                packets.add_metric([queue.broker, outcome], count)
            partitions.add_metric([queue.broker], queue.partitions)
            up.add_metric([queue.broker], queue.waiting is not None)
            if queue.waiting is not None:
                waiting.add_metric([queue.broker], queue.waiting)
        yield from (packets, partitions, waiting, up)
