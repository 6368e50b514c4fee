"""All services do what their OpenAPI documents say, with every request that is sent to them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from comments.article_events import ArticlePublished
from orchestrator import create_app
from orchestrator.sagas.delete_article import delete_article
from outbox.messages import Message
from outbox.testing import FakeClock
from outbox.transports.base import Answered
from outbox.transports.http import HttpTransport
from outbox.transports.http.signing import Keyring
from tests.support.blog.blog import (
    SECRETS,
    START,
    articles_app,
    articles_schema,
    comments_app,
    comments_schema,
    envelope,
    new_id,
)
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import (
    PARTICIPANTS,
    orchestrator_schema,
    orchestrator_settings,
)
from tests.support.processes.cli import sagabox
from tests.support.processes.waiting import wait_until

pytestmark = pytest.mark.slow

EXAMPLES = 10
ONLY_AFTER_TROUBLE = {
    "POST /dead-letters/redrive",
    *(f"POST /sagas/{{saga}}/{verb}" for verb in ("resolve", "resume", "retry", "skip")),
    # Asked for after the saga was cancelled and terminated.
    "POST /sagas/{saga}/pause",
}
"""What nothing is there for in a service that has met no trouble."""
Operation: TypeAlias = "schemathesis.APIOperation[Any, Any, Any, Any]"
Case: TypeAlias = "schemathesis.Case[Any]"
# 413: what is much too long is refused before its shape is looked at.
# 429: many tokens that are tried are wrong.
REFUSALS = [400, 401, 404, 409, 412, 413, 415, 422, 428, 429]
CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}
)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@dataclass
class _Served:
    """A service at an address, with one thing in it that requests can be about."""

    app: FastAPI
    address: str
    known: dict[str, str]
    """Its ids, by the names that parameters have for them."""


@contextlib.contextmanager
def _serving(app: FastAPI) -> Iterator[str]:
    """The address of the service, with its background work, in a thread of its own."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), what="uvicorn is ready")
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextlib.contextmanager
def _articles(database: Database) -> Iterator[_Served]:
    app = articles_app(database)
    with _serving(app) as address:
        new = {"title": "Tides", "body": "High and low.", "author": "Ada"}
        article = httpx.post(f"{address}/articles", json=new, timeout=30).json()["id"]
        yield _Served(app, address, {"id": article})


@contextlib.contextmanager
def _comments(database: Database) -> Iterator[_Served]:
    app = comments_app(database)
    with _serving(app) as address:
        article = new_id()
        asyncio.run(_deliver(address, ArticlePublished(article, "Tides", 1)))
        new = {"article_id": article, "author": "Bob", "content": "Well said."}
        comment = httpx.post(f"{address}/comments", json=new, timeout=30).json()["id"]
        yield _Served(app, address, {"id": comment, "article_id": article})


@contextlib.contextmanager
def _orchestrator(database: Database) -> Iterator[_Served]:
    app = create_app(
        orchestrator_settings(database),
        sagas=[delete_article],
        participants=PARTICIPANTS,
        transports={},
    )
    with _serving(app) as address:
        answers: list[httpx.Response] = []

        def started() -> bool:
            body = {"article_id": f"article {len(answers)}"}
            answers.append(httpx.post(f"{address}/sagas/delete-article", json=body, timeout=30))
            return answers[-1].status_code == httpx.codes.ACCEPTED

        wait_until(started, what="the engine has its shards")
        known = {"saga": answers[-1].json()["id"], "name": "delete-article", "version": "1"}
        known["token"] = _token(database)
        # Once it was right, the wrong ones beside it are not held against it.
        httpx.post(f"{address}/session", json={"token": known["token"]}, timeout=30)
        yield _Served(app, address, known)


def _token(database: Database) -> str:
    told = sagabox(
        *("token", "create", "ann", "--role", "viewer", "--json"),
        SAGABOX_DATABASE_URL_ORCHESTRATOR=database.url,
    )
    token: str = json.loads(told.out)["token"]
    return token


async def _deliver(address: str, message: Message) -> None:
    keys = Keyring.from_text(SECRETS)
    transport = HttpTransport(address, source="articles", keys=keys, clock=FakeClock(START))
    delivery = await transport.deliver([envelope(message)])
    await transport.aclose()
    assert isinstance(delivery, Answered)


@pytest.mark.parametrize(
    ("serve", "schema"),
    [
        (_articles, articles_schema),
        (_comments, comments_schema),
        (_orchestrator, orchestrator_schema),
    ],
    ids=["articles", "comments", "orchestrator"],
)
def test_every_answer_is_one_that_the_document_describes(
    database_factory: DatabaseFactory,
    serve: Callable[[Database], contextlib.AbstractContextManager[_Served]],
    schema: Schema,
) -> None:
    statuses: dict[str, set[int]] = {}
    with serve(database_factory(schema)) as served:
        document = schemathesis.openapi.from_dict(_short(served.app.openapi()), config=CONFIG)
        for found in document.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            seen = statuses.setdefault(operation.label, set())
            for mode in GenerationMode:
                _try(served, operation, mode, seen)
    assert statuses
    for label, seen in statuses.items():
        assert seen, f"{label} was never asked"
        assert not [status for status in seen if status >= 500], (label, seen)
    _reaches_what_it_is_for(statuses)


def _short(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the greatest lengths above some thousands: texts around those take
    seconds to make, and other tests know them."""
    document = copy.deepcopy(document)
    for schema in document["components"]["schemas"].values():
        for described in schema.get("properties", {}).values():
            if described.get("maxLength", 0) > 5_000:
                del described["maxLength"]
    return document


def _try(served: _Served, operation: Operation, mode: GenerationMode, seen: set[int]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        seen.add(case.call_and_validate(base_url=served.address, checks=CHECKS).status_code)
        # Aiming may mend the very thing that makes a request wrong.
        if mode is GenerationMode.POSITIVE and _aim(case, served.known):
            seen.add(case.call_and_validate(base_url=served.address, checks=CHECKS).status_code)

    with contextlib.suppress(Unsatisfiable):  # nothing about the operation can be wrong
        ask()


def _aim(case: Case, known: dict[str, str]) -> bool:
    """Let the request be about something that is there, if it is about anything."""
    places = [case.path_parameters]
    if isinstance(case.body, dict):
        places.append(case.body)
    aimed = False
    for place in places:
        for name in place.keys() & known.keys():
            place[name] = known[name]
            aimed = True
    if case.operation.label == "PUT /articles/{id}":
        case.headers["if-match"] = "*"
    if case.operation.label == "POST /sagas/{saga}":
        case.path_parameters["saga"] = "delete-article"
        case.body = {"article_id": new_id()}
    elif case.operation.label == "POST /dead-letters/redrive":
        case.body = {"ids": [new_id()]}
        aimed = True
    return aimed


def _reaches_what_it_is_for(statuses: dict[str, set[int]]) -> None:
    """A test that only sees refusals has tested nothing."""
    for label, seen in statuses.items():
        if label == "POST /messages":
            assert seen <= {400, 401, 413, 415}, seen
        elif label in ONLY_AFTER_TROUBLE:
            assert seen & {404, 409}, (label, seen)
        else:
            assert min(seen) < 300, (label, seen)
