"""Runs across the participant in Node.js, which is killed now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import orchestrator
from orchestrator import Saga, compensatable, pivot
from orchestrator.machine.instance import Status
from orchestrator.testing.conforming.contract import Add, Later, Refuse, Remove
from orchestrator.testing.conforming.conversation import Conversation
from orchestrator.testing.conforming.line import Line
from outbox.clock import SystemClock
from outbox.transports.http.signing import Keyring
from tests.support.blog.blog import running
from tests.support.databases.databases import Database, Schema
from tests.support.orchestrator.orchestrating import orchestrator_schema, orchestrator_settings
from tests.support.participants.node import PATIENCE, SECRETS, NodeParticipant, running_node
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.databases("sqlite")]

_RUNS = 12


@dataclass(frozen=True)
class Booking:
    account: str


booked = Saga(
    name="book",
    version=1,
    state=Booking,
    key=lambda it: it.account,
    steps=[
        compensatable(
            "reserve", lambda it: Add(it.account, 1), compensation=lambda it: Remove(it.account)
        ),
        pivot("book", lambda it: Add(it.account, 2)),
    ],
)
refused = Saga(
    name="refuse",
    version=1,
    state=Booking,
    key=lambda it: it.account,
    steps=[
        compensatable(
            "reserve", lambda it: Add(it.account, 1), compensation=lambda it: Remove(it.account)
        ),
        compensatable(
            "ask", lambda it: Later(it.account, 5), compensation=lambda it: Remove(it.account)
        ),
        pivot("book", lambda it: Refuse(it.account, 2)),
    ],
)


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_schema


async def test_runs_end_with_every_effect_or_none_while_the_participant_is_killed(
    database: Database, tmp_path: Path
) -> None:
    async with running_node(tmp_path) as participant:
        app = orchestrator.create_app(
            orchestrator_settings(database, secrets=SECRETS, poll_interval=0.2),
            sagas=[booked, refused],
            participants={"conform": participant.url},
        )
        async with running(app) as service, app.router.lifespan_context(app):
            accounts = {
                saga.name: [f"{saga.name}-{number}" for number in range(_RUNS)]
                for saga in (booked, refused)
            }
            ids = [
                await _started(service.http, name, account)
                for name, all_of_it in accounts.items()
                for account in all_of_it
            ]
            completing = asyncio.create_task(_complete_all(participant, accounts["refuse"]))
            for _ in range(2):
                await participant.restart()
            await completing
            for id in ids:
                await _until_ended(service.http, id)
            statuses = [(await service.http.get(f"/sagas/{id}")).json()["status"] for id in ids]
        assert statuses == [Status.COMPLETED] * _RUNS + [Status.COMPENSATED] * _RUNS
        async with _talking(participant) as it:
            for account in accounts["book"]:
                assert len(await it.entries(account)) == 2
            for account in accounts["refuse"]:
                assert await it.entries(account) == []


@asynccontextmanager
async def _talking(participant: NodeParticipant) -> AsyncIterator[Conversation]:
    keys = Keyring.from_text(SECRETS)
    line = Line(participant.url, to="conform", keys=keys, clock=SystemClock(), timeout=PATIENCE)
    try:
        yield Conversation(line, None)
    finally:
        await line.aclose()


async def _started(client: httpx.AsyncClient, name: str, account: str) -> str:
    answers: list[httpx.Response] = []

    async def is_started() -> bool:
        answers.append(await client.post(f"/sagas/{name}", json={"account": account}))
        return answers[-1].status_code == 202

    await until(is_started, PATIENCE, "the engine has its shards")
    id: str = answers[-1].json()["id"]
    return id


async def _complete_all(participant: NodeParticipant, accounts: Sequence[str]) -> None:
    """Complete the pending command of each account, once it is there."""
    async with _talking(participant) as it:
        for account in accounts:
            command = await _second_entry(it, account)
            sent = it.command("complete", account, command=command, outcome="done")
            await it.until_answered([sent], PATIENCE)


async def _second_entry(it: Conversation, account: str) -> str:
    entries: list[str] = []

    async def is_there() -> bool:
        read = it.command("read", account)
        (reply,) = await it.until_answered([read], PATIENCE)
        entries[:] = reply.value["commands"]
        return len(entries) == 2

    await until(is_there, PATIENCE, f"{account} has a pending command")
    return entries[1]


async def _until_ended(client: httpx.AsyncClient, id: str) -> None:
    async def has_ended() -> bool:
        return (await client.get(f"/sagas/{id}")).json()["ended_at"] is not None

    await until(has_ended, 2 * PATIENCE, f"the run {id} has ended")
