"""The formats in which /metrics is written: the text format of Prometheus, and OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from starlette.responses import Response

OPEN_METRICS = "application/openmetrics-text"
"""The content type of OpenMetrics, the format that has exemplars."""


def written(registry: CollectorRegistry, accept: str) -> Response:
    """The metrics of this registry, in the format that the header `accept` asks for."""
    shown = _Plain(registry)
    if OPEN_METRICS in accept:
        text: bytes = openmetrics.generate_latest(shown)  # type: ignore[no-untyped-call]  # no types
        return Response(text, media_type=openmetrics.CONTENT_TYPE_LATEST)
    return Response(generate_latest(shown), media_type=CONTENT_TYPE_LATEST)


class _Plain(Collector):
    """The metrics without their `_created` samples, which would look like gauges in the text
    format."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [it for it in family.samples if not it.name.endswith("_created")]
            yield family
