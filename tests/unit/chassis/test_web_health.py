from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

from outbox.chassis.endpoints import health
from outbox.chassis.endpoints.health import Check, NotReady
from outbox.chassis.http import problems


async def _well() -> None:
    pass


async def _ill() -> None:
    raise NotReady("the relay does not run", next_step="restart the service")


async def _away() -> None:
    raise ConnectionRefusedError


async def _broken() -> None:
    raise RuntimeError("hunter2")


async def _stuck() -> None:
    await asyncio.Event().wait()


async def _get(path: str, **checks: Check) -> httpx.Response:
    app = FastAPI()
    app.include_router(health.router(lambda: checks, timeout=0.01))
    problems.install(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get(path)


async def test_a_service_is_alive_when_its_checks_fail() -> None:
    answer = await _get("/livez", relay=_ill)
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_a_service_is_ready_when_every_check_finds_nothing() -> None:
    answer = await _get("/readyz", database=_well, relay=_well)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ready", "checks": ["database", "relay"]},
    )


async def test_a_service_that_is_not_ready_says_what_fails_and_what_to_do() -> None:
    answer = await _get("/readyz", database=_well, relay=_ill)
    assert answer.status_code == 503
    problem = answer.json()
    assert problem["code"] == "not-ready"
    assert problem["detail"] == "relay: the relay does not run."
    assert problem["next_step"] == "restart the service"
    assert answer.headers["retry-after"] == "2"


async def test_a_database_that_is_away_or_stuck_makes_a_service_not_ready() -> None:
    for check in (_away, _stuck):
        answer = await _get("/readyz", database=check)
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["detail"]


async def test_all_failures_are_named_and_nothing_of_the_inside_is_shown() -> None:
    answer = await _get("/readyz", relay=_ill, other=_broken)
    detail = answer.json()["detail"]
    assert "relay:" in detail
    assert "other:" in detail
    assert "hunter2" not in answer.text
