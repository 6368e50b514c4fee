"""The metrics of addresses: how many of each destination are usable, and what was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from outbox.transports.addresses.overview import HasAddresses, Overview
from outbox.transports.addresses.standing import State
from outbox.transports.base import Transport


class AddressMetrics(Collector):
    """The figures of each destination's addresses, read when they are scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._overviews: dict[str, Callable[[], Overview]] = {}
        registry.register(self)

    def watch(self, destination: str, transport: Transport) -> None:
        """Show the addresses of that transport, if it has any."""
        if isinstance(transport, HasAddresses):
            self._overviews[destination] = transport.overview

    def collect(self) -> Iterator[Metric]:
        """As Prometheus asks. The addresses themselves are no labels: they come and go."""
        addresses = GaugeMetricFamily(
            "sagabox_addresses",
            "Addresses of a destination, by their state",
            labels=["destination", "state"],
        )
        trouble = GaugeMetricFamily(
            "sagabox_address_troubles",
            "1 while the last look for a destination's addresses failed",
            labels=["destination"],
        )
        ejections = CounterMetricFamily(
            "sagabox_address_ejections",
            "Times that an address was left out since it failed",
            labels=["destination"],
        )
        strangers = CounterMetricFamily(
            "sagabox_address_strangers",
            "Times that an address was found to work on another database",
            labels=["destination"],
        )
        for destination, overview in self._overviews.items():
            seen = overview()
            for state in State:
                count = sum(it.state is state for it in seen.addresses)
                addresses.add_metric([destination, state.value], count)
            trouble.add_metric([destination], seen.trouble is not None)
            ejections.add_metric([destination], seen.ejections)
            strangers.add_metric([destination], seen.strangers)
        yield from (addresses, trouble, ejections, strangers)
