"""Spans to a collector by OTLP over HTTP, where the environment names one.

It needs the extra `sagabox[otlp]`. A thread of the SDK sends them: a collector that is away or slow
costs spans, and never holds up the service.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import WeakSet

from opentelemetry import trace as telemetry

from outbox.chassis.settings import InvalidSettings
from outbox.errors import ExtraMissing
from outbox.tracing import tracer_in_use

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
OF_TRACES: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
FLUSH_SECONDS: Final = 2.0
"""Seconds that the spans which are left have at the end of a process."""

_ENDED: WeakSet[Any] = WeakSet()
"""The providers of contexts that have ended, one at most."""
_EXPORTER = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_THEIRS = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""The logger of the exporter, which has a line for each attempt that fails."""


def collector(environment: Mapping[str, str] = os.environ) -> str | None:
    """The address of the collector that the environment names, without a password; None where it
    names none, or says that nothing is to be sent. Raises InvalidSettings."""
    variable = OF_TRACES if environment.get(OF_TRACES) else ENDPOINT
    given = environment.get(variable, "")
    if not given or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter = environment.get(_EXPORTER, "") or "otlp"
    if exporter == "none":
        return None
    if exporter != "otlp":
        raise InvalidSettings(
            f"{_EXPORTER} is {exporter!r}, and Sagabox sends spans by otlp only",
            next_step=f"set {_EXPORTER} to otlp, or to none; or install a provider of your own",
        )
    spoken = next(filter(None, map(environment.get, _PROTOCOLS)), _SPOKEN)
    if spoken != _SPOKEN:
        raise InvalidSettings(
            f"the protocol of OTLP is {spoken!r}, and Sagabox speaks {_SPOKEN}",
            next_step=f"set {_PROTOCOLS[1]} to {_SPOKEN}, and {variable} to the collector's port "
            "for HTTP, which is mostly 4318",
        )
    return _without_password(variable, given)


def _given(environment: Mapping[str, str]) -> str:
    return environment.get(OF_TRACES) or environment.get(ENDPOINT, "")


def _without_password(variable: str, given: str) -> str:
    try:
        address = urlsplit(given)
        host, port = address.hostname, address.port
    except ValueError:
        host, port, address = None, None, urlsplit("")
    if address.scheme not in ("http", "https") or not host:
        raise InvalidSettings(
            f"{variable} is no address of HTTP",
            next_step=f"set {variable} to an address such as http://collector:4318",
        )
    place = f"[{host}]" if ":" in host else host
    return f"{address.scheme}://{place}{'' if port is None else f':{port}'}"


def require_extra(environment: Mapping[str, str] = os.environ) -> None:
    """Raises ExtraMissing where the environment names a collector, and the extra is not installed;
    InvalidSettings where it cannot be right."""
    if collector(environment) is not None and not all(map(_is_there, _NEEDED)):
        given = OF_TRACES if environment.get(OF_TRACES) else ENDPOINT
        raise ExtraMissing("otlp", f"the export of traces, which {given} asks for,")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


@contextmanager
def exporting(service: str, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """A context whose spans go to the collector that the environment names; none is made where it
    names none. What is left at its end is sent within `FLUSH_SECONDS`, or lost.

    A provider that is there already stays, and sends its spans itself. Raises as `require_extra`,
    and InvalidSettings where such a context has ended in this process: OpenTelemetry takes one
    provider, and that one sends nothing any more.
    """
    require_extra(environment)
    place = collector(environment)
    if place is None:
        yield
        return
    if telemetry.get_tracer_provider() in _ENDED:
        raise InvalidSettings(
            f"the spans of {service} would be lost: this process has ended its export of spans",
            next_step=f"run it in a process of its own, or without {ENDPOINT}",
        )
    if tracer_in_use() is not None:
        log.info("the spans of %s go where its own provider of traces sends them", service)
        yield
        return
    told = Told(place, _given(environment))
    try:
        provider = _provider(service, environment, told)
    except ValueError as error:
        logging.getLogger(_THEIRS).removeFilter(told.filter)
        raise InvalidSettings(
            f"the SDK of OpenTelemetry refuses its settings: {error}",
            next_step="correct the variables OTEL_BSP_...: OTEL_BSP_MAX_EXPORT_BATCH_SIZE, which "
            "is 512 unless set, must not be above OTEL_BSP_MAX_QUEUE_SIZE",
        ) from error
    telemetry.set_tracer_provider(provider)
    log.info("the spans of %s go to %s", service, place)
    try:
        yield
    finally:
        _ENDED.add(provider)
        _end(provider.shutdown, told)


def _provider(service: str, environment: Mapping[str, str], told: Told) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in environment or (
        f"{SERVICE_NAME}=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    )
    resource = Resource.create({} if named else {SERVICE_NAME: service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(telling(OTLPSpanExporter(), told)))
    return provider


def _end(shut_down: Callable[[], None], told: Told, seconds: float = FLUSH_SECONDS) -> None:
    """Send what is left. The SDK itself would wait for the collector much longer."""
    told.is_ending = True
    ending = threading.Thread(target=shut_down, name="last spans", daemon=True)
    ending.start()
    ending.join(seconds)
    if ending.is_alive():
        log.warning(
            "the last spans are lost, since %s did not take them within %g s", told.place, seconds
        )


class Told:
    """What the log tells of the collector at `place`: one line when it takes no spans, and one when
    it takes them again. As a filter it leaves one line of each trouble, without what may be secret
    in the address as it was `given`."""

    def __init__(self, place: str, given: str = "") -> None:
        self.place = place
        self._hidden = _hidden(given)
        self.lost = 0
        self.is_ending = False
        self._has_said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the exporter's line is the first of this trouble: it has the reason."""
        said, self._has_said = self._has_said, True
        if said or self.is_ending:
            return False
        text = record.getMessage()
        for hidden in self._hidden:
            text = text.replace(hidden, "...")
        record.msg, record.args = text, ()
        return True

    def note(self, spans: int, *, is_taken: bool) -> None:
        """Note what became of so many spans."""
        if is_taken:
            if self.lost:
                log.warning("%s takes spans again; %d were lost", self.place, self.lost)
            self.lost, self._has_said = 0, False
            return
        if not self.lost:
            log.warning(
                "%s takes no spans, and these are lost until it does; nothing else waits for it. "
                "Start the collector, or correct %s",
                self.place,
                ENDPOINT,
            )
        self.lost += spans


def _hidden(given: str) -> list[str]:
    """What of an address is not to be told: the user with the password, the query, and the path,
    in which some have a key; the longest first."""
    parts = urlsplit(given)
    user = parts.netloc.rpartition("@")[0]
    told = (user, parts.query, parts.path.rstrip("/"))
    return sorted((it for it in told if it), key=len, reverse=True)


def telling(exporter: SpanExporter, told: Told) -> SpanExporter:
    """The exporter, with what becomes of its spans told."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    logging.getLogger(_THEIRS).addFilter(told.filter)

    class Telling(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            result = exporter.export(spans)
            told.note(len(spans), is_taken=result is SpanExportResult.SUCCESS)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()
            logging.getLogger(_THEIRS).removeFilter(told.filter)

    return Telling()
