"""Bodies of the services' own routes are refused where not every reader takes them in one way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from outbox.chassis.http.strict_bodies import StrictRoute
from tests.support.blog.blog import (
    articles_app,
    articles_schema,
    comments_app,
    comments_schema,
    running,
)
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_schema

SERVICES: dict[str, tuple[Callable[..., FastAPI], Callable[..., object]]] = {
    "orchestrator": (noted_app, orchestrator_schema),
    "articles": (articles_app, articles_schema),
    "comments": (comments_app, comments_schema),
}


def _database(service: str, factory: DatabaseFactory) -> Database:
    return factory(SERVICES[service][1])  # type: ignore[arg-type]  # each is a Schema


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("service", SERVICES)
def test_every_route_with_a_body_reads_it_strictly(
    database_factory: DatabaseFactory, service: str
) -> None:
    app = SERVICES[service][0](_database(service, database_factory))
    with_body = [
        route
        for route in app.routes
        if isinstance(route, APIRoute) and route.body_field is not None
    ]
    assert with_body
    assert [it.path for it in with_body if not isinstance(it, StrictRoute)] == []


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"title": "a", "title": "b", "body": "c", "author": "d"}', "two members 'title'"),
        ("{", "The body cannot be read: Expecting"),
        *((f'{{"title": {it}}}', f"{it} is no number") for it in ("NaN", "Infinity", "-Infinity")),
    ],
)
async def test_what_readers_take_differently_is_refused_with_the_reason(
    database_factory: DatabaseFactory, body: str, reason: str
) -> None:
    async with running(articles_app(_database("articles", database_factory))) as articles:
        headers = {"content-type": "application/json"}
        answer = await articles.http.post("/articles", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-json")
        assert reason in answer.json()["detail"]
        assert (await articles.http.get("/articles")).json()["items"] == []
