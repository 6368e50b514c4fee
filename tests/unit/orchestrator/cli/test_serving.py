"""The server in the process of a command."""

from __future__ import annotations

import gc
import signal

import pytest
import uvicorn

from orchestrator.cli.services import dev
from orchestrator.cli.services.serving import Logging, serve_until_told
from orchestrator.cli.terminal import log_format
from orchestrator.cli.terminal.log_format import LogFormat, LogLevel
from outbox.chassis import span_export
from outbox.errors import ExtraMissing


def test_what_is_loaded_when_a_service_begins_is_left_out_of_the_look_for_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[int] = []

    def note(_: uvicorn.Server) -> None:
        frozen.append(gc.get_freeze_count())
        gc.unfreeze()

    monkeypatch.setattr(uvicorn.Server, "run", note)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(log_format, "configure_logging", lambda *_: None)
    gc.unfreeze()
    logging = Logging(of_each_request=False, form=LogFormat.TEXT, level=LogLevel.DEBUG)
    serve_until_told(object, "127.0.0.1", 0, logging, called=lambda _: "test")
    assert frozen[0] > 10_000


def test_without_the_libraries_for_traces_that_are_asked_for_no_service_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(span_export.ENDPOINT, "http://collector:4318")
    monkeypatch.setattr(span_export, "_NEEDED", ("opentelemetry.sdk.that.is.not.there",))
    monkeypatch.setattr(log_format, "configure_logging", lambda *_: None)
    logging = Logging(of_each_request=False, form=LogFormat.TEXT, level=LogLevel.DEBUG)

    def make() -> None:
        pytest.fail("it was made")

    with pytest.raises(ExtraMissing):
        serve_until_told(make, "127.0.0.1", 0, logging, called=lambda _: "test")
    with pytest.raises(ExtraMissing):
        dev._asked_for([])
