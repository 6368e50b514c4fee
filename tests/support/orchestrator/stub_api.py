"""The orchestrator's API as the console sees it, with answers that a test writes down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Page, Route


@dataclass(frozen=True)
class Asked:
    """A request of the page."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Says:
    """An answer; `text` replaces the JSON `body`."""

    body: Any = None
    status: int = 200
    text: str | None = None
    media_type: str = "application/json"


Answer = Says | Callable[[Asked], Says]

EMPTY = Says({"items": [], "next_cursor": None})


def problem(status: int, detail: str, next_step: str) -> Says:
    """A refusal in the API's form."""
    told = {"title": "No", "status": status, "detail": detail, "next_step": next_step, "code": "no"}
    return Says(told, status, media_type="application/problem+json")


def run_of(id: str = "01a", **fields: Any) -> dict[str, Any]:
    """A run as GET /sagas/{id} shows it, without steps unless given."""
    return {
        "id": id,
        "name": "place-order",
        "version": 1,
        "status": "RUNNING",
        "paused": False,
        "key": "order 7",
        "created_at": "2030-01-01T12:00:00Z",
        "updated_at": "2030-01-01T12:00:01Z",
        "ended_at": None,
        "begin_at": None,
        "parked": None,
        "waits_for": None,
        "step": None,
        "reason": None,
        "direction": "FORWARD",
        "originator": None,
        "trace_id": "0" * 31 + "1",
        "state": {},
        "cause": None,
        "not_undone": [],
        "stray_effects": [],
        "allowed": [],
        "steps": [],
        **fields,
    }


def step_of(name: str, status: str = "PENDING", **fields: Any) -> dict[str, Any]:
    """A step as it stands in a run."""
    return {
        "name": name,
        "kind": "compensatable",
        "status": status,
        "attempts": 0,
        "reason": None,
        "participant": "stock",
        "after": [],
        "action": "stock.do.v1",
        "compensation": None,
        "awaited": None,
        "waits_for": None,
        **fields,
    }


def line_of(number: int, happening: str = "sent", **fields: Any) -> dict[str, Any]:
    """A line of a history."""
    return {
        "number": number,
        "at": "2030-01-01T12:00:00Z",
        "happening": happening,
        "detail": "",
        "step": None,
        "command_id": None,
        "actor": None,
        "status": "RUNNING",
        **fields,
    }


def events(*lines: dict[str, Any]) -> Says:
    """A stream that tells these lines and ends."""
    text = "".join(
        f"event: {it['happening']}\ndata: {json.dumps(it)}\nid: {it['number']}\n\n" for it in lines
    )
    return Says(text=": alive\n\n" + text, media_type="text/event-stream")


@dataclass
class StubApi:
    """Answers what the page asks, and takes it down. What is not in `answers` is a 404, but for the
    counts of the list, which are then none.

    Keys are "METHOD /path". The console's own files come from where the page came from.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    async def attach(self, page: Page) -> None:
        """Stand between the page and its origin."""
        await page.route(lambda url: "/console" not in urlsplit(url).path, self._handle)

    def count(self, name: str) -> int:
        """How often it was asked for that."""
        return sum(f"{it.method} {it.path}" == name for it in self.asked)

    def last(self, name: str) -> Asked:
        """What it was asked for the last time."""
        return [it for it in self.asked if f"{it.method} {it.path}" == name][-1]

    async def _handle(self, route: Route) -> None:
        request = route.request
        address = urlsplit(request.url)
        asked = Asked(
            request.method,
            address.path,
            parse_qs(address.query),
            await request.all_headers(),
            json.loads(request.post_data) if request.post_data else None,
        )
        self.asked.append(asked)
        missing = problem(404, "there is nothing", "look elsewhere")
        if asked.path == "/sagas/counts":
            missing = Says({"items": []})
        answer = self.answers.get(f"{asked.method} {asked.path}", missing)
        said = answer if isinstance(answer, Says) else answer(asked)
        await route.fulfill(
            status=said.status,
            content_type=said.media_type,
            body=json.dumps(said.body) if said.text is None else said.text,
        )


def put(api: StubApi, run: dict[str, Any], *lines: dict[str, Any]) -> None:
    """There is one run, with this history."""
    api.answers |= {
        "GET /sagas": Says({"items": [run], "next_cursor": None}),
        f"GET /sagas/{run['id']}": Says(run),
        f"GET /sagas/{run['id']}/events": events(*lines),
    }
