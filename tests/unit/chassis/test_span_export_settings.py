"""Which collector the environment names, and how spans that are lost are told."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from outbox.chassis import span_export
from outbox.chassis.settings import InvalidSettings
from outbox.chassis.span_export import ENDPOINT, OF_TRACES, Told, collector, exporting, telling
from outbox.errors import ExtraMissing
from outbox.tracing import tracer_in_use
from tests.support.outbox.spans import Spans

THERE = "http://collector:4318"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({ENDPOINT: ""}, None),
        ({ENDPOINT: THERE}, THERE),
        ({ENDPOINT: "https://ann:secret@collector/otlp?key=secret"}, "https://collector"),
        ({ENDPOINT: "http://[::1]:4318"}, "http://[::1]:4318"),
        ({ENDPOINT: "grpc is for metrics", OF_TRACES: THERE}, THERE),
        ({ENDPOINT: THERE, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: THERE, "OTEL_SDK_DISABLED": "true"}, None),
        ({ENDPOINT: THERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, THERE),
    ],
)
def test_the_environment_names_the_collector(
    environment: dict[str, str], place: str | None
) -> None:
    assert collector(environment) == place


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({ENDPOINT: "collector:4318"}, ENDPOINT),
        ({ENDPOINT: "http://"}, ENDPOINT),
        ({ENDPOINT: "http://collector:port"}, ENDPOINT),
        ({OF_TRACES: "ftp://collector"}, OF_TRACES),
        ({ENDPOINT: THERE, "OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER"),
        ({ENDPOINT: THERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({ENDPOINT: THERE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "4318"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(more: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        collector(more)
    assert refused.value.next_step is not None
    assert named in refused.value.next_step
    with pytest.raises(InvalidSettings), exporting("stock", more):
        pass


@pytest.mark.parametrize(
    "more",
    [{"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, {"OTEL_BSP_SCHEDULE_DELAY": "-1"}],
    ids=lambda it: next(iter(it)),
)
def test_settings_that_the_sdk_refuses_are_refused_with_the_next_step(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is the size of a queue that is smaller than a batch, which no one set."""
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refused, exporting("stock", {ENDPOINT: THERE}):
        pass
    assert "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in (refused.value.next_step or "")
    assert tracer_in_use() is None


def test_no_key_in_the_address_of_the_collector_comes_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exporter's line has the path with the query."""
    given = "https://ann:hidden@collector/of/token-1/v1/traces?api_key=s3cret"
    told = Told(THERE, given)
    exporter = _Exporter()
    exporter.results = [SpanExportResult.FAILURE]
    exporter.says = (
        "Transient error %s, retrying",
        "url: /of/token-1/v1/traces?api_key=s3cret (ann:hidden@collector)",
    )
    telling_one = telling(exporter, told)
    telling_one.export([])
    telling_one.shutdown()
    assert "Transient error url: " in caplog.text
    for secret in ("token-1", "s3cret", "hidden"):
        assert secret not in caplog.text


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_export, "_NEEDED", ("opentelemetry.exporter.that.is.not.there",))
    with pytest.raises(ExtraMissing) as missing, exporting("stock", {ENDPOINT: THERE}):
        pass
    assert missing.value.next_step == "pip install 'sagabox[otlp]'"
    assert ENDPOINT in missing.value.problem
    with exporting("stock", {}):
        assert tracer_in_use() is None


def test_a_provider_that_is_there_already_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Spans().install(monkeypatch)
    monkeypatch.setattr(span_export, "_provider", None)
    with exporting("stock", {ENDPOINT: THERE}):
        pass
    assert "its own provider" in caplog.text


def test_a_second_export_in_one_process_is_refused_once_the_first_has_ended() -> None:
    """Its spans would go to a provider that sends nothing any more."""
    code = f"""
from outbox.chassis.settings import InvalidSettings
from outbox.chassis.span_export import exporting
there = {{"{ENDPOINT}": "http://127.0.0.1:1"}}
with exporting("stock", there), exporting("beside", there):
    pass
with exporting("nowhere", {{}}):
    pass
try:
    with exporting("shelves", there):
        print("it runs")
except InvalidSettings as refused:
    print(refused.problem, refused.next_step)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "the spans of shelves would be lost" in ran.stdout
    assert "a process of its own" in ran.stdout


def test_what_a_service_is_called_is_what_the_environment_says_or_its_name() -> None:
    code = (
        "from outbox.chassis.span_export import _provider, Told;"
        "import os;"
        "it = _provider('stock', os.environ, Told('x'));"
        "print(it.resource.attributes['service.name'])"
    )

    def told(**more: str) -> str:
        environment = {"PYTHONPATH": ":".join(sys.path), **more}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.strip()

    assert told() == "stock"
    assert told(OTEL_SERVICE_NAME="shelves") == "shelves"
    assert told(OTEL_RESOURCE_ATTRIBUTES="team=a,service.name=racks") == "racks"
    assert told(OTEL_RESOURCE_ATTRIBUTES="team=a") == "stock"


class _Exporter(SpanExporter):
    """Does as it is told, and logs as the real one does."""

    def __init__(self) -> None:
        self.results: list[SpanExportResult] = []
        self.ended = False
        self.says: tuple[str, ...] = ("it refuses",)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self.results.pop(0)
        if result is SpanExportResult.FAILURE:
            logging.getLogger(span_export._THEIRS).warning(*self.says)
        return result

    def shutdown(self) -> None:
        self.ended = True


def test_a_trouble_of_the_collector_is_told_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken, lost = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    exporter, told = _Exporter(), Told(THERE)
    exporter.results = [taken, lost, lost, lost, taken, taken, lost]
    telling_one = telling(exporter, told)
    batch: Any = [None] * 10
    for _ in range(4):
        telling_one.export(batch)
    first = [it.getMessage() for it in caplog.records]
    assert first[0] == "it refuses"
    assert first[1].startswith(f"{THERE} takes no spans")
    assert len(first) == 2
    telling_one.export(batch)
    telling_one.export(batch)
    assert [it.getMessage() for it in caplog.records][2:] == [
        f"{THERE} takes spans again; 30 were lost"
    ]
    telling_one.export(batch)
    assert len(caplog.records) == 5
    telling_one.shutdown()
    assert exporter.ended


def test_the_end_does_not_wait_for_a_collector_that_is_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answered = threading.Event()

    def shut_down() -> None:
        answered.wait(60)

    try:
        span_export._end(shut_down, Told(THERE), seconds=0.01)
    finally:
        answered.set()
    assert "the last spans are lost" in caplog.text
    caplog.clear()
    span_export._end(lambda: None, Told(THERE))
    assert caplog.text == ""
