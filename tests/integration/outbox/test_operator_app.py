"""The operations of an outbox over HTTP, mounted into an application of its owner's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.lanes import BLOCKED
from outbox.tables import outbox as outbox_table
from outbox.tables import outbox_scheduled
from outbox.testing import FakeClock
from tests.support.outbox.holding import HoldingBench
from tests.support.outbox.letters import a_letter, a_rest, an_id, bury, of_saga, rest
from tests.support.outbox.relays import commit, counts, message, row

VARIABLE = "SAGABOX_OPERATOR_TOKEN"
TOKEN = "a-token-that-no-one-guesses"
HOLDER = {"authorization": f"Bearer {TOKEN}"}
DUE = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
async def http(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv(VARIABLE, TOKEN)
    service = outbox.Service("blog", engine, peers={"comments": "http://comments:8000"})
    app = FastAPI()
    app.mount("/operate", outbox.operator_app(service))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1/operate", headers=HOLDER
    ) as client:
        yield client


async def got(http: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def done(http: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/status", "/dead", "/held", "/scheduled")),
        *(("POST", path) for path in ("/redrive", "/drop", "/purge")),
        *(("POST", path) for path in ("/scheduled/move", "/scheduled/drop")),
        *(("GET", path) for path in ("/received", "/received/1")),
        *(("POST", path) for path in ("/received/redrive", "/received/drop")),
    ],
)
async def test_without_the_token_nothing_is_told_and_nothing_done(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    for shown in (None, "Bearer wrong-wrong-wrong"):
        headers = {} if shown is None else {"authorization": shown}
        http.headers.pop("authorization", None)
        answer = await http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"].startswith("credentials-")


def test_without_a_token_in_the_environment_there_is_no_such_application(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    service = outbox.Service("blog", engine, peers={})
    with pytest.raises(outbox.InvalidService, match="open to all"):
        outbox.operator_app(service)


async def test_what_was_given_up_is_looked_at_and_sent_again(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await bury(engine, a_letter(1), a_letter(2, destination="mail"), of_saga(3) | {"id": an_id(3)})
    status = await got(http, "/status")
    assert [it["dead_letters"] for it in status["destinations"]] == [2, 1]
    page = await got(http, "/dead", destination="mail")
    assert [it["id"] for it in page["items"]] == [an_id(2)]
    would = await done(http, "/redrive", all=True, dry_run=True)
    assert (would["dead_letters"], would["of_sagas"]) == (2, 1)
    assert (await counts(engine))["outbox"] == 0
    assert (await done(http, "/redrive", ids=[an_id(1)]))["dead_letters"] == 1
    renamed = await done(http, "/redrive", destination="mail", as_new=True)
    assert list(renamed["new_ids"]) == [an_id(2)]
    assert (await counts(engine))["outbox"] == 2


async def test_a_blocked_key_is_shown_freed_or_its_message_buried(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    bucket, _ = message("k")
    ids = await commit(engine, message("k"), message("k"))
    hold = a_rest("k", bucket=bucket, head_id=ids[0], next_at=BLOCKED)
    await rest(engine, hold)
    (held,) = (await got(http, "/held"))["items"]
    assert (held["id"], held["blocked"], held["behind"]) == (ids[0], True, 1)
    gone = await done(http, "/drop", key="k", bury=True, actor="ann")
    assert gone["held_messages"] == 1
    (letter,) = (await got(http, "/dead"))["items"]
    assert letter["reason"].startswith("given up by token operator (ann); the last: ")
    found = await counts(engine)
    assert (found["outbox"], found["outbox_dead"]) == (1, 1)


async def test_the_schedule_is_looked_at_and_changed(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    bucket, envelope = message("k")
    async with engine.begin() as connection:
        values = row(bucket, envelope, "comments") | {"due_at": DUE}
        await connection.execute(insert(outbox_scheduled).values(**values))
    moved = await done(http, "/scheduled/move", ids=[envelope.id], due="2098-01-01T00:00:00Z")
    assert moved["scheduled"] == 1
    (found,) = (await got(http, "/scheduled"))["items"]
    assert found["due_at"] == "2098-01-01T00:00:00Z"
    assert (await done(http, "/scheduled/drop", type="articles.*"))["scheduled"] == 1
    assert (await got(http, "/scheduled"))["items"] == []


async def test_what_came_by_a_broker_is_looked_at_tried_again_and_dropped(
    http: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    bench = HoldingBench(engine, clock=FakeClock(outbox.SystemClock().now()))
    await bench.hold(bench.note("one", "ada"), bench.note("two", "bob"))
    page = await got(http, "/received", state="waiting", key="bob")
    assert [(it["seq"], it["type"]) for it in page["items"]] == [(2, "press.noted.v1")]
    shown = await got(http, "/received/2")
    assert (shown["seq"], shown["id"]) == (2, json.loads(shown["body"])["id"])
    assert (await done(http, "/received/redrive", all=True, dry_run=True))["messages"] == 2
    assert (await done(http, "/received/redrive", numbers=[2]))["messages"] == 1
    assert (await done(http, "/received/drop", key="ada"))["messages"] == 1
    assert [it["seq"] for it in (await got(http, "/received"))["items"]] == [2]
    assert (await http.post("/received/drop", json={})).status_code == 422
    for number in (9, 0, 2**63):
        assert (await http.get(f"/received/{number}")).status_code == 404
        for path in ("/received/drop", "/received/redrive"):
            assert (await http.post(path, json={"numbers": [number]})).status_code == 404


async def test_the_purge_needs_a_moment(http: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await bury(engine, a_letter(1), a_letter(2))
    assert (await http.post("/purge", json={})).status_code == 422
    before = (await got(http, "/dead"))["items"][0]["died_at"]
    assert (await done(http, "/purge", older_than=before))["dead_letters"] == 1
    assert [it["id"] for it in (await got(http, "/dead"))["items"]] == [an_id(2)]


@pytest.mark.parametrize("path", ["/dead", "/held", "/scheduled", "/received"])
async def test_each_list_is_cut_by_time(
    http: httpx.AsyncClient, engine: AsyncEngine, path: str
) -> None:
    await bury(engine, a_letter(1))
    await rest(engine, a_rest("k", next_at=BLOCKED))
    bucket, envelope = message("k")
    async with engine.begin() as connection:
        values = row(bucket, envelope, "comments") | {"due_at": DUE}
        await connection.execute(insert(outbox_scheduled).values(**values))
        at_the_key = {"bucket": 17, "aggregateid": "k", "id": an_id(1)}
        values = row(bucket, envelope, "comments") | at_the_key
        await connection.execute(insert(outbox_table).values(**values))
    bench = HoldingBench(engine, clock=FakeClock(outbox.SystemClock().now()))
    await bench.hold(bench.note("one", "ada"))
    for moment, count in (("9999-12-31T23:59:59.999999Z", 1), ("0001-01-01T00:00:00Z", 0)):
        assert len((await got(http, path, older_than=moment))["items"]) == count
        if path != "/received":
            assert len((await got(http, path, newer_than=moment))["items"]) == 1 - count
    answer = await http.get(path, params={"older_than": "yesterday"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid-selection"),
        ({"all": True, "key": "k"}, 422, "invalid-selection"),
        ({"ids": ["x"]}, 422, "invalid-request"),
        ({"ids": [an_id(9)]}, 404, "no-such-message"),
        ({"ids": [an_id(3)]}, 409, "belongs-to-saga"),
        ({"ids": [an_id(4)]}, 409, "forgotten-by-receiver"),
        ({"destinaton": "mail"}, 422, "invalid-request"),
        ({"older_than": "yesterday"}, 422, "invalid-request"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_reason_and_changes_nothing(
    http: httpx.AsyncClient, engine: AsyncEngine, body: dict[str, Any], status: int, code: str
) -> None:
    await bury(engine, of_saga(3) | {"id": an_id(3)}, a_letter(4, reason="too-old: long ago"))
    answer = await http.post("/redrive", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["next_step"]
    assert (await counts(engine))["outbox_dead"] == 2
