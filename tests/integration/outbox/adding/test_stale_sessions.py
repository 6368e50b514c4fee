"""A cookie whose session is over: as good as none on this machine, and nothing elsewhere."""

from __future__ import annotations

import httpx
import pytest

from orchestrator.access import sessions
from outbox.chassis.access.failed_keys import ALLOWED
from outbox.chassis.access.routes import Role
from tests.support.blog.blog import Running, running
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import (
    ELSEWHERE,
    HERE,
    bearer,
    calling,
    clock_of,
    code_of,
    give_token,
)
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    noted_app,
    orchestrator_schema,
    put,
)

COOKIE = "sagabox-session"
OURS = {"origin": "http://127.0.0.1"}

pytestmark = pytest.mark.databases("sqlite")


def forgets(answer: httpx.Response) -> bool:
    """Whether the answer makes a browser forget the cookie."""
    told: str = answer.headers.get("set-cookie", "")
    return told.startswith(f"{COOKIE}=; Max-Age=0")


async def test_this_machine_comes_in_with_a_stale_cookie_and_the_browser_forgets_it(
    database_factory: DatabaseFactory,
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        async with calling(service.app, HERE) as client:
            client.cookies.set(COOKIE, "stale", domain="127.0.0.1")
            looked = await client.get("/sagas")
            assert (looked.status_code, forgets(looked)) == (200, True)
            assert COOKIE not in client.cookies
            assert not forgets(await client.get("/sagas"))
        async with calling(service.app, ELSEWHERE) as client:
            client.cookies.set(COOKIE, "stale")
            refused = await client.get("/sagas")
            assert (refused.status_code, forgets(refused)) == (401, True)


async def signed_in(service: Running, client: httpx.AsyncClient, role: Role) -> None:
    """Trade a new token for a cookie."""
    token = await give_token(service.chassis.database, "ann", role)
    await client.post("/session", json={"token": token}, headers=OURS)


async def test_a_session_that_lasts_is_not_forgotten_and_opens_no_more_than_its_role(
    database_factory: DatabaseFactory,
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        run = await put(service.chassis.database, begun())
        wish = {"reason": "why"}
        async with calling(service.app, HERE) as client:
            await signed_in(service, client, Role.VIEWER)
            assert not forgets(await client.get("/sagas"))
            refused = await client.post(f"/sagas/{run.id}/cancel", json=wish, headers=OURS)
            assert code_of(refused) == "not-allowed"
            clock_of(service).advance(sessions.SESSION_LASTS.total_seconds())
            taken = await client.post(f"/sagas/{run.id}/cancel", json=wish, headers=OURS)
            assert (taken.status_code, forgets(taken)) == (202, True)
        (signal,) = [signal for _, signal in engine_of(service).told]
        assert signal.actor == "api", "no token stands behind it"


async def test_a_stale_cookie_gives_another_sites_page_nothing(
    database_factory: DatabaseFactory,
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        run = await put(service.chassis.database, begun())
        async with calling(service.app, HERE) as client:
            for headers in (
                {"origin": "http://evil.example"},
                {"sec-fetch-site": "cross-site"},
                {"origin": "http://127.0.0.1:3000"},
            ):
                cookie = {"cookie": f"{COOKIE}=stale"}
                answer = await client.post(
                    f"/sagas/{run.id}/cancel", json={"reason": "why"}, headers=headers | cookie
                )
                assert code_of(answer) == "cross-site"
                loaded = await client.get("/sagas", headers=headers | cookie)
                assert code_of(loaded) == "cross-site"
        assert engine_of(service).told == []


async def test_stale_cookies_on_this_machine_are_no_failures_and_wait_for_none(
    database_factory: DatabaseFactory,
) -> None:
    app = noted_app(database_factory(orchestrator_schema))
    async with running(app), calling(app, HERE) as client:
        cookie = {"cookie": f"{COOKIE}=stale"}
        for _ in range(ALLOWED + 1):
            assert (await client.get("/sagas", headers=cookie)).status_code == 200
        for _ in range(ALLOWED):
            wrong = await client.get("/sagas", headers=bearer("sgb_no"))
            assert wrong.status_code == 401
        assert (await client.get("/sagas", headers=bearer("sgb_no"))).status_code == 429
        assert (await client.get("/sagas", headers={"cookie": f"{COOKIE}=x"})).status_code == 200
