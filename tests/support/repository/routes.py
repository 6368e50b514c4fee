"""The routes of the three services: those that there are, and what the table says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

import articles.api
import comments.api
from orchestrator.api.route_access import ACCESS
from outbox.chassis.access.routes import COMMON, Access, Table
from tests.support.checkout import ROOT

PAGE = ROOT / "docs" / "operate" / "security.md"
OWN = {"orchestrator": ACCESS, "articles": articles.api.ACCESS, "comments": comments.api.ACCESS}
"""What each service's own routes ask for."""

_BEGIN, _END = "<!-- routes -->\n", "<!-- end of routes -->"


def table_of(service: str) -> Table:
    """All routes of a service."""
    return {**COMMON, **OWN[service]}


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of every route that the application answers at."""
    for route in app.routes:
        contexts = getattr(route, "effective_route_contexts", None)
        for found in [route] if contexts is None else contexts():
            # A route of the framework below has no context of its own.
            each: Any = getattr(found, "starlette_route", None) or found
            yield from ((method, each.path) for method in each.methods if method != "HEAD")


def documented_table() -> str:
    """What docs/operate/security.md shows."""
    return PAGE.read_text("utf-8").partition(_BEGIN)[2].partition(_END)[0]


def expected_table() -> str:
    """What it has to show."""
    lines = ["| service | route | asks for |", "| --- | --- | --- |"]
    lines += _rows("each", COMMON)
    for service, table in OWN.items():
        lines += _rows(service, table)
    return "\n".join(lines) + "\n"


def _rows(service: str, table: Table) -> list[str]:
    order = tuple(Access)
    rows = sorted(table.items(), key=lambda it: (order.index(it[1]), it[0][1], it[0][0]))
    return [f"| {service} | `{method} {path}` | {needs} |" for (method, path), needs in rows]
