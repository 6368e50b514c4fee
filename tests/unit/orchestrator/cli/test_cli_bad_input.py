"""What no command can make use of is refused, with what to type in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.orchestrator.stub_orchestrator import (
    ID,
    Answer,
    StubOrchestrator,
    saga,
    summary,
)
from tests.support.processes.cli import sagabox, told_error

START = ("start", "place-order", "{}")
NO_TEXT = os.fsdecode(b"\xff")
"""How a byte that is no UTF-8 arrives as an argument."""


@pytest.mark.parametrize(
    "words",
    [
        ("start", NO_TEXT),
        (*START, "--idempotency-key", f"a{NO_TEXT}"),
        (*START, f"--input={NO_TEXT}"),
        ("list", f"--name={NO_TEXT}"),
        ("show", ID, "--url", f"http://{NO_TEXT}"),
        ("cancel", ID, "--reason", NO_TEXT),
        ("outbox", "dead", "--service", "articles", "--key", NO_TEXT),
        ("token", "revoke", NO_TEXT),
        (NO_TEXT,),
    ],
)
def test_bytes_that_are_no_text_are_refused_before_anything_is_done(
    stub: StubOrchestrator, words: tuple[str, ...]
) -> None:
    told = sagabox(*words)
    assert told.code == 2
    assert told.err.startswith("error: ")
    assert "\\udcff is no text" in told.err
    assert "next: type it in UTF-8" in told.err
    assert told_error(sagabox(*words, "--json"))["next_step"].startswith("type it in UTF-8")
    assert stub.asked == []


def test_a_file_may_have_a_name_that_is_no_text(stub: StubOrchestrator, tmp_path: Path) -> None:
    stub.on("POST", "/sagas/place-order", Answer(saga(), 202))
    file = tmp_path / NO_TEXT
    file.write_text("{}")
    for option in (("--input", str(file)), (f"--input={file}",)):
        assert sagabox("start", "place-order", *option).code == 0


def test_an_address_in_the_environment_that_is_no_text_is_refused() -> None:
    told = sagabox("list", SAGABOX_URL_ORCHESTRATOR=f"http://{NO_TEXT}")
    assert (told.code, "is no address of an orchestrator" in told.err) == (2, True)


@pytest.mark.parametrize("key", ["é", "", " a", "a ", "a\nb", "a\0"])
def test_a_key_that_no_header_can_carry_is_refused(stub: StubOrchestrator, key: str) -> None:
    told = sagabox(*START, "--idempotency-key", key)
    assert told.code == 2
    assert "is no idempotency key" in told.err
    assert "next: --idempotency-key order-4711" in told.err
    assert stub.asked == []


@pytest.mark.parametrize("words", [("start", "x" * 70_000), ("list", "--name", "x" * 70_000)])
def test_what_is_longer_than_any_address_is_refused(
    stub: StubOrchestrator, words: tuple[str, ...]
) -> None:
    told = sagabox(*words)
    assert told.code == 2
    assert "next: give shorter names and filters" in told.err
    assert len(told.err) < 500
    assert stub.asked == []


@pytest.mark.parametrize(
    "words",
    [
        (*START, "--wait"),
        ("watch", ID, "--timeout"),
        ("audit", "--timeout"),
        ("audit", "--runs", "--since"),
        ("restored", "comments", "--grace"),
        ("conform", "http://127.0.0.1:1", "--timeout"),
    ],
)
@pytest.mark.parametrize("number", ["inf", "1e300"])
def test_a_time_that_no_clock_can_tell_is_refused(words: tuple[str, ...], number: str) -> None:
    told = sagabox(*words, number)
    assert told.code == 2
    assert "Invalid value" in told.err


@pytest.mark.parametrize(
    "now", [f"Tue, 01 Jan 2030 12:00:00 +{'9' * 20}", "Tue, 01 Jan 2030 12:00:00 -0000", "soon"]
)
def test_a_clock_that_tells_no_time_is_no_reason_to_end(stub: StubOrchestrator, now: str) -> None:
    stub.now = now
    stub.on("GET", "/sagas", Answer({"items": [summary()], "next_cursor": None}))
    assert sagabox("list").code == 0
