"""An orchestrator that answers what a test tells it to, at a real address."""

from __future__ import annotations

import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER = "01890a5d-ac96-774b-bcce-b302099a8058"
CREATED = "2030-01-01T12:00:00Z"


@dataclass(frozen=True)
class Answer:
    """One answer. A `str` is sent as it is, anything else as JSON; `breaks` ends the connection
    before all that was announced has been sent."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: Any


class StubOrchestrator:
    """Gives, for each method and path, one answer after the other, and the last one for ever.

    `now` is the time that it says in its answers, as HTTP writes it; None: the true one.
    """

    def __init__(self) -> None:
        self.url = ""
        self.now: str | None = None
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """Answer so from now on."""
        self._answers[method, path] = list(answers)

    def next_answer(self, asked: Asked) -> Answer:
        """The answer to this request, which is remembered."""
        self.asked.append(asked)
        waiting = self._answers[asked.method, asked.path]
        if not waiting:
            return problem(404, "unknown-address", f"There is nothing at {asked.path}.")
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextmanager
def stub_orchestrator() -> Iterator[StubOrchestrator]:
    """One that listens, until the end of the block."""
    stub = StubOrchestrator()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            split = urlsplit(self.path)
            length = int(self.headers.get("content-length", 0))
            asked = Asked(
                self.command,
                split.path,
                parse_qs(split.query),
                {name.lower(): value for name, value in self.headers.items()},
                json.loads(self.rfile.read(length)) if length else None,
            )
            answer = stub.next_answer(asked)
            is_text = isinstance(answer.body, str)
            content = (answer.body if is_text else json.dumps(answer.body)).encode()
            self.send_response(answer.status)
            self.send_header("content-length", str(len(content) + (1 if answer.breaks else 0)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return stub.now or super().date_time_string(timestamp)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


def problem(
    status: int, code: str, detail: str, *, next_step: str = "Do better.", **more: Any
) -> Answer:
    """A refusal. What is in `more` stands beside the usual members."""
    body = {
        "type": f"urn:sagabox:problem:{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "next_step": next_step,
        "code": code,
    }
    return Answer(body | more, status, {"content-type": "application/problem+json"})


def saga(status: str = "RUNNING", **more: Any) -> dict[str, Any]:
    """A run as the API shows it."""
    ended = status not in ("SCHEDULED", "RUNNING", "COMPENSATING", "STUCK")
    shown = {
        **summary(status),
        "direction": "FORWARD",
        "originator": None,
        "archived": None,
        "history_removed": None,
        "trace_id": "0" * 31 + "1",
        "state": {"article_id": "a1"},
        "cause": None,
        "not_undone": [],
        "stray_effects": [],
        "allowed": [] if ended else ["cancel", "pause", "terminate"],
        "steps": [
            {
                "name": "hide article",
                "kind": "compensatable",
                "status": "SENT",
                "attempts": 1,
                "reason": None,
                "participant": "articles",
                "after": [],
                "compensation": "articles.unhide-article.v1",
                "action": "articles.hide-article.v1",
                "awaited": {
                    "id": OTHER,
                    "type": "articles.hide-article.v1",
                    "wait": "answer",
                    "sendings": 2,
                    "deadline": CREATED,
                    "tries": 0,
                    "error": None,
                    "next_at": None,
                    "silence": None,
                    "pending": None,
                },
                "waits_for": "answer",
            }
        ],
    }
    return shown | more


def summary(status: str = "RUNNING", **more: Any) -> dict[str, Any]:
    """A run as the API lists it."""
    ended = status not in ("SCHEDULED", "RUNNING", "COMPENSATING", "STUCK")
    shown = {
        "id": ID,
        "name": "delete-article",
        "version": 1,
        "status": status,
        "paused": False,
        "key": "a1",
        "created_at": CREATED,
        "updated_at": CREATED,
        "ended_at": CREATED if ended else None,
        "begin_at": None,
        "parked": None,
        "waits_for": None if ended else "answer",
        "step": None if ended else "hide article",
        "reason": None,
    }
    return shown | more


def entry(number: int, happening: str = "sent", **more: Any) -> dict[str, Any]:
    """One line of a history."""
    shown = {
        "number": number,
        "at": CREATED,
        "happening": happening,
        "detail": "",
        "step": None,
        "command_id": None,
        "actor": None,
    }
    return shown | more


def stream(*entries: Mapping[str, Any], breaks: bool = False) -> Answer:
    """An event stream with these entries, and a heartbeat in front."""
    lines = [": alive\n\n"]
    for it in entries:
        data = json.dumps({"status": "RUNNING", **it})
        lines.append(f"id: {it['number']}\nevent: {it['happening']}\ndata: {data}\n\n")
    return Answer("".join(lines), headers={"content-type": "text/event-stream"}, breaks=breaks)
