from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.context import attach, detach

from orchestrator.cli.terminal.log_format import LogFormat, LogLevel, configure_logging
from outbox import tracing
from outbox.contract import SagaEnded
from outbox.tracing import Handling
from tests.support.blog.blog import envelope, new_id

ONE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OURS = ("articles", "comments", "orchestrator", "outbox")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in (*OURS, "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_json_line_has_the_ids_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.JSON)
    saga = new_id()
    one = envelope(SagaEnded(saga, "COMPLETED"), saga=saga)
    with Handling([one], tracing.tracer_in_use()):
        logging.getLogger("articles.api").info("ended", extra={"step": "hide"})
    token = attach(tracing.context_of(ONE))
    logging.getLogger("uvicorn.access").info("GET %s", "/")
    detach(token)
    logging.getLogger("uvicorn").info("started")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "ended",
        "level": "info",
        "logger": "articles.api",
        "saga": saga,
        "step": "hide",
        "message": one.id,
        "type": one.type,
    }
    assert (second["trace_id"], second["span_id"]) == (ONE[3:35], ONE[36:52])
    assert second["event"] == "GET /"
    assert third.keys() == {"event", "level", "logger", "timestamp"}


def test_a_line_of_text_has_the_ids_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.TEXT)
    token = attach(tracing.context_of(ONE))
    logging.getLogger("articles").info("here it is")
    detach(token)
    (line,) = capsys.readouterr().err.splitlines()
    text, _, fields = line.partition("here it is")
    assert "trace_id" not in text
    assert f"trace_id={ONE[3:35]}" in fields
    assert f"span_id={ONE[36:52]}" in fields


@pytest.mark.parametrize(
    ("level", "told"),
    [
        (LogLevel.DEBUG, ["outbox debug", "outbox info", "asyncio info"]),
        (LogLevel.INFO, ["outbox info", "asyncio info"]),
        (LogLevel.WARNING, []),
    ],
)
def test_the_level_makes_our_own_code_talkative_and_no_other_code(
    capsys: pytest.CaptureFixture[str], level: LogLevel, told: list[str]
) -> None:
    configure_logging(LogFormat.JSON, level)
    for name in ("outbox", "asyncio"):
        logging.getLogger(name).debug("%s debug", name)
        logging.getLogger(name).info("%s info", name)
    lines = [json.loads(it)["event"] for it in capsys.readouterr().err.splitlines()]
    assert lines == told
