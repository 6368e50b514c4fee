"""Whom the history names for what a person did: the token that was shown, not what was said."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from orchestrator.machine.signals import Cancel, Retry, Skip
from outbox.chassis.access.routes import Role
from tests.support.blog.blog import Running, running
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import HERE, bearer, calling, give_token
from tests.support.orchestrator.orchestrating import (
    begun,
    engine_of,
    noted_app,
    orchestrator_schema,
    problem,
    put,
)

OURS = {"origin": "http://127.0.0.1"}

pytestmark = pytest.mark.databases("sqlite")


async def asked(
    service: Running, client: httpx.AsyncClient, verb: str = "cancel", **body: Any
) -> httpx.Response:
    """The answer to an operator who wants that of a run."""
    run = await put(service.chassis.database, begun())
    wish = {"reason": "why", **body}
    return await client.post(f"/sagas/{run.id}/{verb}", json=wish, headers=OURS)


def actors(service: Running) -> list[str]:
    """Whom the engine heard of, in this order."""
    return [signal.actor for _, signal in engine_of(service).told]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "token ops-laptop"),
        ({"actor": "ada"}, "token ops-laptop (ada)"),
        ({"actor": "ops-laptop"}, "token ops-laptop"),
        ({"actor": "token boss"}, "token ops-laptop (token boss)"),
    ],
)
@pytest.mark.parametrize("peer", [HERE, "192.0.2.1"], ids=["here", "elsewhere"])
async def test_who_shows_a_token_is_named_by_it_with_any_words_of_its_own(
    database_factory: DatabaseFactory, peer: str, said: dict[str, str], shown: str
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        token = await give_token(service.chassis.database, "ops-laptop", Role.OPERATOR)
        async with calling(service.app, peer, token) as client:
            assert (await asked(service, client, **said)).status_code == 202
        assert actors(service) == [shown]


async def test_a_session_has_the_name_of_its_token(database_factory: DatabaseFactory) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        token = await give_token(service.chassis.database, "ops-laptop", Role.OPERATOR)
        async with calling(service.app, HERE) as client:
            await client.post("/session", json={"token": token}, headers=OURS)
            await asked(service, client, actor="ada")
            await client.delete("/session", headers=OURS)
            await asked(service, client, actor="ada")
        assert actors(service) == ["token ops-laptop (ada)", "ada"]


async def test_every_verb_names_the_token(database_factory: DatabaseFactory) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        token = await give_token(service.chassis.database, "boss", Role.ADMIN)
        verbs = ("cancel", "terminate", "resolve", "pause", "resume", "retry", "skip")
        async with calling(service.app, token=token) as client:
            for verb in verbs:
                step = {"step": "s"} if verb in ("retry", "skip") else {}
                assert (await asked(service, client, verb, **step)).status_code == 202
        assert actors(service) == ["token boss"] * len(verbs)
        told = [signal for _, signal in engine_of(service).told]
        assert told[0] == Cancel("token boss", "why")
        assert told[-2:] == [Retry("s", "token boss", "why"), Skip("s", "token boss", "why")]


@pytest.mark.parametrize("said", ["token boss", " token\tboss", "Token boss", "token"])
async def test_who_shows_no_token_does_not_pass_for_one(
    database_factory: DatabaseFactory, said: str
) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        answer = await asked(service, service.http, actor=said)
        assert "shows no token" in problem(answer, 422, "invalid-input")["detail"]
        assert engine_of(service).told == []
        await asked(service, service.http, actor="tokenless Ada")
        assert actors(service) == ["tokenless Ada"]


async def test_a_wrong_token_asks_for_nothing(database_factory: DatabaseFactory) -> None:
    async with running(noted_app(database_factory(orchestrator_schema))) as service:
        run = await put(service.chassis.database, begun())
        answer = await service.http.post(
            f"/sagas/{run.id}/cancel", json={"reason": "why"}, headers=bearer("sgb_no")
        )
        assert (answer.status_code, engine_of(service).told) == (401, [])
