"""Tokens and sessions: what is wrong, stale, replayed or from another site changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text

from orchestrator.access import sessions, token_keys, tokens
from orchestrator.errors import InvalidToken
from orchestrator.tables import PLAIN, saga_token
from outbox.chassis.access.failed_keys import ALLOWED, WINDOW
from outbox.chassis.access.keys import digest_of
from outbox.chassis.access.routes import Role
from tests.support.blog.blog import START, Running, new_id, running
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import (
    ELSEWHERE,
    HERE,
    bearer,
    calling,
    clock_of,
    code_of,
    give_token,
    rows,
)
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_schema

COOKIE = "sagabox-session"
OURS = {"origin": "http://127.0.0.1"}


@pytest.fixture
def database_schema() -> Schema | str:
    return orchestrator_schema


@asynccontextmanager
async def started(make: DatabaseFactory, **settings: Any) -> AsyncIterator[tuple[Running, str]]:
    """The orchestrator, and an operator's token."""
    async with running(noted_app(make(orchestrator_schema), **settings)) as service:
        token = await give_token(service.chassis.database, "ann", Role.OPERATOR)
        yield service, token


async def start_saga(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"article_id": new_id()}
    return await client.post("/sagas/delete-article", json=body, headers=named)


async def log_in(client: httpx.AsyncClient, token: str, **headers: str) -> httpx.Response:
    return await client.post("/session", json={"token": token}, headers=OURS | headers)


async def test_a_right_token_starts_a_saga_and_wrong_ones_change_nothing(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, token):
        database = service.chassis.database
        async with calling(service.app) as client:
            before = await rows(database)
            flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
            for wrong in (
                flipped,
                token + "A",
                token[:-1],
                token.removeprefix("sgb_"),
                digest_of(token).hex(),
                "ann",
                "sgb_",
            ):
                answer = await start_saga(client, authorization=f"Bearer {wrong}")
                assert (answer.status_code, code_of(answer)) == (401, "credentials-wrong")
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]
            basic = await start_saga(client, authorization=f"Basic {token}")
            assert basic.status_code == 401
            in_url = await client.post(f"/sagas/delete-article?access_token={token}", json={})
            assert code_of(in_url) == "credentials-missing"
            assert in_url.headers["www-authenticate"] == 'Bearer realm="sagabox"'
            assert in_url.headers["x-frame-options"] == "DENY"
            assert await rows(database) == before
            assert (await start_saga(client, **bearer(token))).status_code == 202
            assert (await rows(database))["saga"] == before["saga"] + 1


@pytest.mark.databases("sqlite")
async def test_a_wrong_token_is_refused_also_on_this_machine(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, _), calling(service.app, HERE) as client:
        assert (await start_saga(client, authorization="Bearer sgb_no")).status_code == 401
        assert (await start_saga(client)).status_code == 202


async def test_an_expired_token_opens_nothing(database_factory: DatabaseFactory) -> None:
    async with started(database_factory) as (service, _):
        database, clock = service.chassis.database, clock_of(service)
        ends = START + timedelta(seconds=2)
        token = await give_token(database, "bob", Role.VIEWER, expires_at=ends)
        async with calling(service.app, token=token) as client:
            assert (await client.get("/sagas")).status_code == 200
            clock.advance(2)
            assert (await client.get("/sagas")).status_code == 401
            clock.advance(token_keys.TRUSTED)
            assert (await client.get("/sagas")).status_code == 401


async def test_a_revoked_token_opens_nothing_after_a_few_seconds(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, token):
        database = service.chassis.database
        async with calling(service.app, token=token) as client:
            assert (await client.get("/sagas")).status_code == 200
            async with database.engine.begin() as connection:
                await tokens.revoke(connection, PLAIN, "ann", now=START)
            clock_of(service).advance(token_keys.TRUSTED)
            assert (await client.get("/sagas")).status_code == 401
            assert (await log_in(client, token)).status_code == 401


@pytest.mark.databases("sqlite")
async def test_a_token_costs_no_query_each_time(
    database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    find = tokens.find

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await find(*arguments)

    monkeypatch.setattr(tokens, "find", counted)
    async with (
        started(database_factory) as (service, token),
        calling(service.app, token=token) as client,
    ):
        for _ in range(5):
            assert (await client.get("/definitions")).status_code == 200
        assert asked == 1
        clock_of(service).advance(token_keys.TRUSTED)
        await client.get("/definitions")
        assert asked == 2


async def test_the_database_keeps_no_token(database_factory: DatabaseFactory) -> None:
    async with started(database_factory) as (service, token):
        database = service.chassis.database
        async with calling(service.app) as client:
            cookie = (await log_in(client, token)).cookies[COOKIE]
        async with database.reading.connect() as connection:
            kept = str((await connection.execute(select(saga_token))).all())
            kept += str((await connection.execute(text("SELECT * FROM saga_session"))).all())
            digest = await connection.scalar(select(saga_token.c.digest))
        assert digest == digest_of(token)
        assert token.removeprefix("sgb_") not in kept
        assert cookie not in kept


async def test_a_name_is_given_once_and_must_be_one(database_factory: DatabaseFactory) -> None:
    async with started(database_factory) as (service, _):
        database = service.chassis.database
        async with database.engine.begin() as connection:
            await tokens.revoke(connection, PLAIN, "ann", now=START)
        for name in ("ann", "", "a b", "-ann", "x" * 101, "ann\n"):
            with pytest.raises(InvalidToken):
                await give_token(database, name, Role.ADMIN)
        async with database.engine.begin() as connection:
            with pytest.raises(InvalidToken):
                await tokens.revoke(connection, PLAIN, "stranger", now=START)
            assert await connection.scalar(select(func.count()).select_from(saga_token)) == 1
            assert not await tokens.any_works(connection, PLAIN, START)


async def test_a_session_does_what_its_token_does_for_our_own_pages(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, token):
        database = service.chassis.database
        async with calling(service.app) as client:
            assert (await client.get("/sagas")).status_code == 401
            begun = await log_in(client, token)
            assert (begun.status_code, begun.json()["role"]) == (201, "operator")
            header = begun.headers["set-cookie"].lower()
            for word in ("httponly", "samesite=strict", "path=/", "max-age=43200"):
                assert word in header
            assert "secure" not in header
            assert "domain" not in header
            assert token not in begun.text
            assert (await client.get("/sagas")).status_code == 200
            before = await rows(database)
            for another in (
                {},
                {"origin": "http://evil.example"},
                {"origin": "null"},
                {"origin": "http://127.0.0.1:9000"},
                {"sec_fetch_site": "cross-site"},
                {"sec_fetch_site": "same-site"},
            ):
                answer = await start_saga(client, **another)
                assert (answer.status_code, code_of(answer)) == (403, "cross-site")
            assert await rows(database) == before
            assert (await start_saga(client, **OURS)).status_code == 202
            assert (await start_saga(client, sec_fetch_site="same-origin")).status_code == 202
            redriving = await client.post("/dead-letters/redrive", json={"ids": []}, headers=OURS)
            assert code_of(redriving) == "not-allowed"


async def test_a_cookie_that_was_ended_forged_or_outlived_opens_nothing(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, token):
        database, clock = service.chassis.database, clock_of(service)
        async with calling(service.app) as client:
            old = (await log_in(client, token)).cookies[COOKIE]
            assert (await client.get("/sagas")).status_code == 200
            ended = await client.delete("/session", headers=OURS)
            assert (ended.status_code, client.cookies.get(COOKIE)) == (204, None)
            before = await rows(database)
            for shown in (old, old[:-1] + "_", token, "", digest_of(old).hex()):
                client.cookies.clear()
                client.cookies.set(COOKIE, shown)
                answer = await start_saga(client, **OURS)
                assert (answer.status_code, code_of(answer)) == (401, "credentials-wrong"), shown
                assert "Max-Age=0" in answer.headers["set-cookie"]
            assert await rows(database) == before
            client.cookies.clear()
            await log_in(client, token)
            clock.advance(sessions.SESSION_LASTS.total_seconds() - 1)
            assert (await client.get("/sagas")).status_code == 200
            clock.advance(1)
            assert (await client.get("/sagas")).status_code == 401


async def test_a_session_ends_with_its_token(database_factory: DatabaseFactory) -> None:
    async with started(database_factory) as (service, token):
        database, clock = service.chassis.database, clock_of(service)
        short = await give_token(
            database, "short", Role.VIEWER, expires_at=START + timedelta(seconds=60)
        )
        async with calling(service.app) as client:
            assert "max-age=60" in (await log_in(client, short)).headers["set-cookie"].lower()
            await log_in(client, token)
            assert (await rows(database))["saga_session"] == 1, "the session before is ended"
            assert (await client.get("/sagas")).status_code == 200
            async with database.engine.begin() as connection:
                await tokens.revoke(connection, PLAIN, "ann", now=START)
            assert (await rows(database))["saga_session"] == 0
            clock.advance(token_keys.TRUSTED)
            assert (await client.get("/sagas")).status_code == 401


@pytest.mark.databases("sqlite")
async def test_another_site_begins_and_ends_no_session(database_factory: DatabaseFactory) -> None:
    async with started(database_factory) as (service, token):
        database = service.chassis.database
        async with calling(service.app) as client:
            evil = {"origin": "http://evil.example"}
            assert code_of(await log_in(client, token, **evil)) == "cross-site"
            assert (await rows(database))["saga_session"] == 0
            await log_in(client, token)
            assert code_of(await client.delete("/session", headers=evil)) == "cross-site"
            assert (await rows(database))["saga_session"] == 1


@pytest.mark.databases("sqlite")
async def test_over_https_the_cookie_is_secure(database_factory: DatabaseFactory) -> None:
    async with started(database_factory, allowed_hosts="sagas.example") as (service, token):
        transport = httpx.ASGITransport(service.app, client=(ELSEWHERE, 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="https://sagas.example"
        ) as client:
            begun = await log_in(client, token, origin="https://sagas.example")
            assert "secure" in begun.headers["set-cookie"].lower()
            unsafe = await log_in(client, token, origin="http://sagas.example")
            assert code_of(unsafe) == "cross-site"


@pytest.mark.databases("sqlite")
async def test_behind_a_proxy_that_speaks_https_the_cookie_is_secure(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory, allowed_hosts="sagas.example") as (service, token):
        transport = httpx.ASGITransport(service.app, client=(ELSEWHERE, 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://sagas.example"
        ) as client:
            begun = await log_in(client, token, origin="https://sagas.example")
            assert begun.status_code == 201
            assert "secure" in begun.headers["set-cookie"].lower()
            plain = await log_in(client, token, origin="http://sagas.example")
            assert "secure" not in plain.headers["set-cookie"].lower()


@pytest.mark.databases("sqlite")
async def test_this_machine_is_a_stranger_unless_the_operator_trusts_it(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory, trust_loopback=False, rate_limit=1) as (service, token):
        database = service.chassis.database
        async with calling(service.app, HERE) as client:
            before = await rows(database)
            assert code_of(await start_saga(client)) == "credentials-missing"
            assert code_of(await client.get("/metrics")) == "credentials-missing"
            assert code_of(await client.get("/sagas")) == "too-many-requests"
            assert await rows(database) == before
            assert (await start_saga(client, **bearer(token))).status_code == 202
            client.cookies.set(COOKIE, "over")
            clock_of(service).advance(60)
            assert code_of(await client.get("/sagas")) == "credentials-wrong"


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("is_trusted", [True, False])
async def test_a_service_says_at_its_start_who_needs_no_key_and_that_there_is_none(
    database_factory: DatabaseFactory, caplog: pytest.LogCaptureFixture, is_trusted: bool
) -> None:
    async with started(database_factory, trust_loopback=is_trusted) as (service, _):
        async with service.chassis.database.engine.begin() as connection:
            await tokens.revoke(connection, PLAIN, "ann", now=START)
        async with service.app.router.lifespan_context(service.app):
            pass
    warned = "\n".join(it.getMessage() for it in caplog.records if it.levelname == "WARNING")
    assert ("SAGABOX_TRUST_LOOPBACK is set" in warned) is is_trusted
    assert ("sagabox token create NAME" in warned) is not is_trusted


@pytest.mark.databases("sqlite")
async def test_this_machine_trusts_no_page_of_another_site(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, _):
        database = service.chassis.database
        async with calling(service.app, HERE) as client:
            before = await rows(database)
            for headers in (
                {"origin": "http://evil.example"},
                {"sec_fetch_site": "cross-site", "content_type": "text/plain"},
                {"host": "evil.example"},
                {"host": "evil.example", "origin": "http://evil.example"},
                {"x_forwarded_for": "127.0.0.1"},
                {"forwarded": "for=127.0.0.1"},
            ):
                answer = await start_saga(client, **headers)
                assert answer.status_code in (401, 403, 421), headers
            assert await rows(database) == before
            assert (await start_saga(client)).status_code == 202


@pytest.mark.databases("sqlite")
async def test_who_shows_too_many_wrong_keys_waits_and_others_do_not(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, token):
        other = await give_token(service.chassis.database, "other", Role.VIEWER)
        async with calling(service.app) as client:
            assert (await client.get("/sagas", headers=bearer(token))).status_code == 200
            for number in range(ALLOWED // 2):
                wrong = await client.get("/sagas", headers=bearer(f"sgb_{number}"))
                assert wrong.status_code == 401
                assert (await log_in(client, f"sgb_{number}")).status_code == 401
            late = await client.get("/sagas", headers=bearer("sgb_x"))
            assert (late.status_code, late.headers["retry-after"]) == (429, f"{WINDOW:.0f}")
            assert (await log_in(client, "sgb_x")).status_code == 429
            # Not even a right one is looked at, unless it was right before.
            assert (await client.get("/sagas", headers=bearer(other))).status_code == 429
            assert (await client.get("/sagas", headers=bearer(token))).status_code == 200
            assert (await client.get("/livez")).status_code == 200
            async with calling(service.app, "192.0.2.99", other) as neighbour:
                assert (await neighbour.get("/sagas")).status_code == 200
            clock_of(service).advance(WINDOW)
            assert (await client.get("/sagas", headers=bearer("sgb_x"))).status_code == 401


@pytest.mark.databases("sqlite")
async def test_remembered_keys_take_bounded_memory(
    database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keys, "REMEMBERED", 20)
    async with started(database_factory) as (service, _):
        known = service.chassis._blueprint.keys
        assert isinstance(known, token_keys.TokenKeys)
        for number in range(60):
            async with calling(service.app, f"192.0.2.{number}", f"sgb_{number}") as client:
                assert (await client.get("/sagas")).status_code == 401
        assert len(known._known) == 20


@pytest.mark.databases("sqlite")
async def test_a_database_that_is_away_opens_nothing(
    database_factory: DatabaseFactory,
) -> None:
    async with started(database_factory) as (service, token):
        async with service.chassis.database.engine.begin() as connection:
            await connection.execute(text("DROP TABLE saga_token"))
        async with calling(service.app, token=token) as client:
            assert (await client.get("/definitions")).status_code >= 500


@pytest.mark.databases("sqlite")
async def test_nothing_but_http_comes_in(database_factory: DatabaseFactory) -> None:
    async with started(database_factory) as (service, _):
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("it was let in")

        await service.app({"type": "websocket", "path": "/livez", "headers": []}, receive, send)
        assert [it["type"] for it in sent] == ["websocket.close"]
