"""/pending of an attached service: there for the holders of the operator's token, and else not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

import outbox
from outbox.chassis.access.failed_keys import ALLOWED
from outbox.inbox.rows import State
from outbox.replies import Outcome
from outbox.transports.http.door import MAX_BODY_BYTES
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.http.wsgi_calls import ask, environ_of, get
from tests.support.outbox.inboxes import Book, Names, ledger_schema
from tests.support.outbox.pending_banks import asked
from tests.support.outbox.services import client_of, make_plain_service
from tests.support.outbox.waiting_banks import WaitingBank, make_waiting_bank

VARIABLE = "SAGABOX_OPERATOR_TOKEN"
TOKEN = "a-token-that-no-one-guesses"
HOLDER = {"authorization": f"Bearer {TOKEN}"}
WHY = {"reason": "the airline is bankrupt", "actor": "ada"}
ADDRESSES = [
    ("GET", "/pending"),
    *(("POST", f"/pending/{Names()()}/{verb}") for verb in ("complete", "refuse", "drop")),
]


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture(params=["on a loop", "in threads"])
def bank(
    request: pytest.FixtureRequest,
    database: Database,
    make_engine: MakeEngine,
    make_sync_engine: MakeSyncEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> WaitingBank:
    monkeypatch.setenv(VARIABLE, TOKEN)
    return make_waiting_bank(request.param, database, make_engine, make_sync_engine)


@pytest.fixture
async def http(bank: WaitingBank) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    bank.service.attach(app)
    async with client_of(app) as client:
        yield client


@pytest.fixture
def names() -> Names:
    return Names()


async def told(http: httpx.AsyncClient, path: str, **body: Any) -> tuple[int, Any]:
    """The status, and the code of a problem or the answer."""
    answer = await http.post(path, json={**WHY, **body}, headers=HOLDER)
    found = answer.json()
    return answer.status_code, found.get("code", found)


# --- Who may come in ------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
async def test_without_the_token_nothing_is_told_and_nothing_read(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    missing = await http.request(method, path, content=b"{")
    assert (missing.status_code, missing.json()["code"]) == (401, "credentials-missing")
    assert "www-authenticate" in missing.headers
    for shown in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN):
        wrong = await http.request(method, path, headers={"authorization": shown})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "credentials-wrong")
    right = await http.request(method, path, headers=HOLDER, content=b"{}")
    assert right.status_code == (200 if method == "GET" else 422)
    assert right.headers["cache-control"] == "no-store"


async def test_who_guesses_has_to_wait_and_the_holder_behind_the_same_address_has_not(
    http: httpx.AsyncClient,
) -> None:
    wrong = {"authorization": "Bearer guessed"}
    answers = [await http.get("/pending", headers=wrong) for _ in range(ALLOWED + 1)]
    assert [it.status_code for it in answers] == [401] * ALLOWED + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert (await http.get("/pending", headers=HOLDER)).status_code == 200


@pytest.mark.parametrize("token", [None, ""])
async def test_without_a_token_in_the_environment_the_addresses_are_the_applications_own(
    bank: WaitingBank, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, token)
    app = Starlette()
    app.add_route("/pending", lambda _: PlainTextResponse("own"))
    bank.service.attach(app)
    async with client_of(app) as http:
        assert (await http.get("/pending", headers=HOLDER)).text == "own"
        drop = await http.post(f"/pending/{Names()()}/drop", headers=HOLDER)
        assert drop.status_code == 404


@pytest.mark.parametrize("token", ["short", "with a space in the middle", "ümlaut-ümlaut-ümlaut"])
async def test_a_token_that_cannot_be_meant_is_refused(
    bank: WaitingBank, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv(VARIABLE, token)
    with pytest.raises(outbox.InvalidService, match=VARIABLE):
        bank.service.attach(FastAPI())


async def test_a_route_of_the_application_is_not_taken_over(bank: WaitingBank) -> None:
    app = Starlette()
    app.add_route("/pending", lambda _: PlainTextResponse("own"))
    with pytest.raises(outbox.InvalidService, match=f"route /pending of its own.*unset {VARIABLE}"):
        bank.service.attach(app)


# --- What it tells and does -----------------------------------------------------------------------


async def test_what_is_pending_is_listed_with_its_age(
    http: httpx.AsyncClient, bank: WaitingBank, names: Names
) -> None:
    first, second = (asked(names(), Book(f"{n}")) for n in range(2))
    await bank.receive(first, second)
    await bank.change(second.id, since=bank.service.clock.now() - timedelta(hours=1))
    page = (await http.get("/pending", params={"limit": 1}, headers=HOLDER)).json()
    (item,) = page["items"]
    assert (item["id"], item["type"], item["undoes"]) == (second.id, "bank.book.v1", [])
    assert 3600 <= item["age"] < 3900
    assert item["expected_at"] > item["since"]
    rest = {"cursor": page["next_cursor"]}
    page = (await http.get("/pending", params=rest, headers=HOLDER)).json()
    assert ([it["id"] for it in page["items"]], page["next_cursor"]) == ([first.id], None)
    wrong = await http.get("/pending", params={"cursor": "x"}, headers=HOLDER)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-selection")


async def test_a_holder_completes_refuses_and_drops(
    http: httpx.AsyncClient, bank: WaitingBank, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    done, refused, dropped = (asked(names(), Book(f"{n}")) for n in range(3))
    await bank.receive(done, refused, dropped)
    path = f"/pending/{done.id}"
    assert await told(http, f"{path}/complete", value={"balance": "x"}) == (422, "invalid-message")
    with caplog.at_level("INFO", "outbox.inbox"):
        answer = await told(http, f"{path}/complete", value={"balance": 7})
    assert answer == (200, {"id": done.id, "outcome": "done"})
    assert [getattr(it, "actor", None) for it in caplog.records] == ["token operator (ada)"]
    assert (await told(http, f"/pending/{refused.id}/refuse", code="full"))[0] == 200
    assert (await told(http, f"/pending/{dropped.id}/drop"))[0] == 200
    replies = await bank.receive(done, refused, dropped)
    assert [reply.outcome for reply in replies] == [
        *(Outcome.DONE, Outcome.REFUSED, Outcome.UNKNOWN)
    ]
    assert {it["outcome"] for it in await bank.told()} == {"done", "refused", "unknown"}


async def test_what_cannot_be_done_is_told_and_changes_nothing(
    http: httpx.AsyncClient, bank: WaitingBank, names: Names
) -> None:
    live, lost, over = (asked(names(), Book(f"{n}")) for n in range(3))
    await bank.receive(live, lost, over)
    bank.lose_its_ways()
    await bank.calling(live.id, until=timedelta(hours=1))
    assert await told(http, f"/pending/{over.id}/drop") == (
        200,
        {"id": over.id, "outcome": "unknown"},
    )
    before = await bank.states()
    assert await told(http, f"/pending/{live.id}/drop") == (409, "call-under-way")
    assert await told(http, f"/pending/{over.id}/refuse", code="x") == (409, "already-answered")
    refused = await told(http, f"/pending/{lost.id}/refuse", code="x")
    assert refused == (409, "no-way-to-the-sender")
    for nothing in (names(), "x"):
        assert await told(http, f"/pending/{nothing}/drop") == (404, "not-pending")
    assert await told(http, f"/pending/{live.id}/drop", reason="") == (422, "invalid-request")
    assert await bank.states() == before


async def test_a_body_that_two_readers_could_take_in_two_ways_or_that_is_too_long_is_refused(
    http: httpx.AsyncClient, bank: WaitingBank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bank.receive(action)
    path = f"/pending/{action.id}/drop"
    json_body = HOLDER | {"content-type": "application/json"}
    twice = await http.post(path, content=b'{"reason": "a", "reason": "b"}', headers=json_body)
    assert (twice.status_code, twice.json()["code"]) == (400, "malformed-json")
    long = await http.post(path, content=bytes(MAX_BODY_BYTES + 1), headers=HOLDER)
    assert long.status_code == 413
    assert await bank.states() == {action.id: State.PENDING}


# --- WSGI -----------------------------------------------------------------------------------------


def test_within_a_wsgi_application_they_are_the_services_and_all_others_the_applications(
    database: Database, make_sync_engine: MakeSyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    bank = make_plain_service(make_sync_engine(database), "bank")

    def own(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"own"]

    app = bank.wsgi(own)
    try:
        assert get(app, "/pending").status == 401
        listed = ask(app, environ_of("GET", "/pending", HTTP_AUTHORIZATION=f"Bearer {TOKEN}"))
        assert (listed.status, json.loads(listed.body)["items"]) == (200, [])
        drop = f"/pending/{Names()()}/drop"
        assert ask(app, environ_of("POST", drop, HTTP_AUTHORIZATION="Bearer x")).status == 401
        for other in ("/pending/", "/pending/x", f"{drop}/more"):
            assert get(app, other).body == b"own"
    finally:
        app.stop()
