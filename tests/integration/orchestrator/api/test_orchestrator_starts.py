"""Starts over HTTP, with an engine that only takes down what it is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.errors import ActiveAlready, InvalidInput, KeyReused, Unavailable
from orchestrator.machine.instance import Instance, Status
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store.records import Committed, Record
from tests.support.blog.blog import START, Running, new_id
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    problem,
    put,
)
from tests.support.processes.waiting import until


async def _put(orchestrator: Running, instance: Instance[Any] | None = None, **columns: Any) -> str:
    return (await put(orchestrator.chassis.database, instance or begun(), **columns)).id


async def test_a_start_is_answered_with_the_saga_and_its_address(orchestrator: Running) -> None:
    article = new_id()
    answer = await orchestrator.http.post("/sagas/delete-article", json={"article_id": article})
    assert answer.status_code == 202, answer.text
    saga = answer.json()
    assert answer.headers["location"] == f"/sagas/{saga['id']}"
    assert "preference-applied" not in answer.headers
    (begin,) = engine_of(orchestrator).begun
    assert begin.saga is delete_article
    assert begin.state == Deletion(article)
    assert begin.key is None
    assert (saga["name"], saga["version"], saga["key"]) == ("delete-article", 1, article)
    assert saga["status"] == "RUNNING"
    assert saga["state"] == {"article_id": article, "title": None, "comments": None}
    assert saga["created_at"] == "2030-01-01T12:00:00Z"
    assert saga["allowed"] == ["cancel", "pause", "terminate"]
    first, second = saga["steps"][:2]
    assert (first["name"], first["kind"], first["status"]) == (
        "hide article",
        "compensatable",
        "SENT",
    )
    assert (first["participant"], first["action"]) == ("articles", "articles.hide-article.v1")
    assert first["compensation"] == "articles.unhide-article.v1"
    assert first["awaited"]["type"] == "articles.hide-article.v1"
    assert (first["awaited"]["wait"], first["awaited"]["sendings"]) == ("answer", 1)
    assert first["awaited"]["deadline"] == "2030-01-01T12:05:00Z"
    assert (second["after"], second["status"], second["awaited"]) == (
        ["hide article"],
        "PENDING",
        None,
    )
    assert (await orchestrator.http.get(f"/sagas/{saga['id']}")).json() == saga


@pytest.mark.parametrize("text", ["2030-02-01T12:00:00Z", "2030-02-01T14:00:00+02:00"])
async def test_a_start_may_say_when_it_is_to_begin(orchestrator: Running, text: str) -> None:
    answer = await orchestrator.http.post(
        "/sagas/delete-article", json={"article_id": new_id()}, params={"begin_at": text}
    )
    assert answer.status_code == 202, answer.text
    (begin,) = engine_of(orchestrator).begun
    assert begin.begin_at == datetime(2030, 2, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["soon", "2030-02-01", "2030-02-01T12:00:00", "9999-12-31T23:59:59-10:00", ""]
)
async def test_a_time_to_begin_that_is_no_moment_is_refused(
    orchestrator: Running, text: str
) -> None:
    answer = await orchestrator.http.post(
        "/sagas/delete-article", json={"article_id": new_id()}, params={"begin_at": text}
    )
    assert "begin_at" in answer.text
    problem(answer, 422, "invalid-request")
    assert engine_of(orchestrator).begun == []


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        (b"[1]", 422, "invalid-input", "array"),
        (b"null", 422, "invalid-input", "null"),
        (b"{", 400, "malformed-json", ""),
        (b"", 400, "malformed-json", ""),
        (b'{"article_id": "a\\u0000"}', 400, "malformed-json", "NUL"),
        (b'{"article_id":"a","article_id":"b"}', 400, "malformed-json", "two members"),
        (b'{"article_id": 9223372036854775808}', 400, "malformed-json", "beyond 64 bits"),
        (b'{"article_id": 99999999999999999999}', 400, "malformed-json", "64 bits"),
        (b'{"article_id": 7}', 422, "invalid-input", "article_id"),
        (b"{}", 422, "invalid-input", "article_id"),
        (b'{"article_id": "a", "comments": "many"}', 422, "invalid-input", "comments"),
        (b'{"article_id": "' + b"x" * 1024 * 1024 + b'"}', 413, "body-too-large", ""),
    ],
    ids=lambda value: value[:20].decode() if isinstance(value, bytes) else None,
)
async def test_input_that_does_not_fit_is_refused_and_starts_nothing(
    orchestrator: Running, body: bytes, status: int, code: str, named: str
) -> None:
    answer = await orchestrator.http.post(
        "/sagas/delete-article", content=body, headers={"content-type": "application/json"}
    )
    assert named in problem(answer, status, code)["detail"]
    assert engine_of(orchestrator).begun == []


async def test_a_body_that_is_no_json_by_its_type_is_refused(orchestrator: Running) -> None:
    answer = await orchestrator.http.post(
        "/sagas/delete-article",
        content=b'{"article_id": "a"}',
        headers={"content-type": "text/plain"},
    )
    problem(answer, 415, "unsupported-media-type")
    assert engine_of(orchestrator).begun == []


async def test_an_unknown_saga_is_told_with_those_that_there_are(orchestrator: Running) -> None:
    answer = await orchestrator.http.post("/sagas/delete-everything", json={})
    assert "delete-article v1" in problem(answer, 404, "unknown-saga")["detail"]


async def test_the_idempotency_key_stands_for_what_was_asked_in_any_order(
    orchestrator: Running,
) -> None:
    async def ask(body: str) -> bytes:
        answer = await orchestrator.http.post(
            "/sagas/delete-article",
            content=body,
            headers={"content-type": "application/json", "idempotency-key": "order 66"},
        )
        assert answer.status_code == 202
        key = engine_of(orchestrator).begun[-1].key
        assert key.text == "order 66"
        fingerprint: bytes = key.fingerprint
        assert len(fingerprint) == 32
        return fingerprint

    first = await ask('{"article_id": "a", "title": "t"}')
    assert await ask('{ "title": "t", "article_id": "a" }') == first
    assert await ask('{"article_id": "a", "title": "u"}') != first


@pytest.mark.parametrize("key", [b"", b"x" * 201, b"k\xe9y", b"a\tb"])
async def test_an_idempotency_key_that_cannot_be_is_refused(
    orchestrator: Running, key: bytes
) -> None:
    answer = await orchestrator.http.post(
        "/sagas/delete-article", json={"article_id": "a"}, headers={b"idempotency-key": key}
    )
    detail = problem(answer, 422, "invalid-request")["detail"]
    assert detail.startswith("header.idempotency-key")
    assert engine_of(orchestrator).begun == []


_ID = "0190a000-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("error", "status", "code", "headers", "members"),
    [
        (
            ActiveAlready("delete-article", "a", _ID),
            409,
            "saga-active",
            {"location": f"/sagas/{_ID}"},
            {"active": _ID},
        ),
        (KeyReused("delete-article", _ID), 422, "idempotency-key-reused", {}, {"first": _ID}),
        (Unavailable("it is busy", retry_after=2.2), 503, "unavailable", {"retry-after": "3"}, {}),
        (InvalidInput("no key", next_step="give one"), 422, "invalid-input", {}, {}),
    ],
    ids=["active", "reused", "unavailable", "input"],
)
async def test_what_the_engine_refuses_becomes_aproblem(
    orchestrator: Running,
    error: Exception,
    status: int,
    code: str,
    headers: dict[str, str],
    members: dict[str, str],
) -> None:
    engine_of(orchestrator).refusal = error
    answer = await orchestrator.http.post("/sagas/delete-article", json={"article_id": "a"})
    found = problem(answer, status, code)
    assert headers.items() <= dict(answer.headers).items()
    assert members.items() <= found.items()


# Waiting for the end


async def _end(orchestrator: Running, id: str, status: Status = Status.COMPLETED) -> None:
    from orchestrator.tables import saga

    async with orchestrator.chassis.database.engine.begin() as connection:
        await connection.execute(
            saga.update().where(saga.c.id == id).values(status=status.value, ended_at=START)
        )


async def test_who_waits_hears_of_the_end_as_soon_as_it_is_committed(
    orchestrator: Running,
) -> None:
    engine = engine_of(orchestrator)
    asked = asyncio.create_task(
        orchestrator.http.post(
            "/sagas/delete-article", json={"article_id": "a"}, headers={"prefer": "wait=20"}
        )
    )
    await until(lambda: engine.watchers._watches, what="a request waits")
    (id,) = engine.watchers._watches
    began = asyncio.get_running_loop().time()
    ended = replace(begun(id=id), ended=Status.COMPLETED)
    engine.watchers.tell([id], ended={id: Committed(Record(ended), START)})
    answer = await asked
    assert asyncio.get_running_loop().time() - began < 10
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["status"] == "COMPLETED"
    assert engine.watchers._watches == {}


async def test_who_waits_sees_the_end_that_another_node_committed(orchestrator: Running) -> None:
    engine = engine_of(orchestrator)
    asked = asyncio.create_task(
        orchestrator.http.post(
            "/sagas/delete-article", json={"article_id": "a"}, headers={"prefer": "wait=20"}
        )
    )
    await until(lambda: engine.watchers._watches, what="a request waits")
    (id,) = engine.watchers._watches
    await _end(orchestrator, id)
    assert (await asyncio.wait_for(asked, 10)).status_code == 200


async def test_a_wait_ends_with_its_time(orchestrator: Running) -> None:
    answer = await orchestrator.http.post(
        "/sagas/delete-article",
        json={"article_id": "a"},
        headers={"prefer": "respond-async, wait=1; now"},
    )
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"


async def test_a_wait_ends_when_the_service_stops(orchestrator: Running) -> None:
    asked = asyncio.create_task(
        orchestrator.http.post(
            "/sagas/delete-article", json={"article_id": "a"}, headers={"prefer": "wait=29"}
        )
    )
    await until(lambda: engine_of(orchestrator).watchers._watches, what="a request waits")
    orchestrator.chassis._kit.stopping.set()
    assert (await asyncio.wait_for(asked, 10)).status_code == 202


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=10", 10),
        ("wait=1000", 30),
        ("wait = 5", 5),
        ("respond-async, wait=7", 7),
        ("wait=0", 0),
        ("wait=soon", 0),
        ("wait=-1", 0),
        ("nothing", 0),
        (None, 0),
    ],
)
def test_a_preference_is_read_and_bounded(prefer: str | None, seconds: int) -> None:
    from orchestrator.api.sagas import _wait

    assert _wait(prefer) == seconds
