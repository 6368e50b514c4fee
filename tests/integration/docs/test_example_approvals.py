"""`examples/approvals`, as the guide "ask a person" shows it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from outbox import tables
from outbox.replies import Outcome
from tests.support.checkout import ROOT
from tests.support.outbox.inboxes import Names, envelope
from tests.support.outbox.services import SECRETS


class Approvals:
    """The example's service on a database of its own."""

    def __init__(self, names: Names) -> None:
        from approvals import contract, service

        self.contract, self.module = contract, service
        self._names, self.saga = names, names()
        transport = httpx.ASGITransport(service.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://approvals")

    def command(self, message: Any, **rest: Any) -> Any:
        """A command of the orchestrator."""
        sent = envelope(self._names(), message, correlation=self.saga, **rest)
        return replace(sent, source="orchestrator", reply_to="orchestrator")

    async def receive(self, command: Any) -> Any:
        """The answer to it."""
        (reply,) = await self.module.service.inbox.receive([command])
        return reply

    async def decide(self, id: str, *, approved: bool) -> int:
        """The status of the answer to a decision."""
        decision = {"by": "Ada", "approved": approved}
        return (await self.client.post(f"/questions/{id}", json=decision)).status_code


@pytest.fixture
async def approvals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Approvals]:
    monkeypatch.syspath_prepend(ROOT / "examples")
    url = f"sqlite+aiosqlite:///{tmp_path}/approvals.db"
    monkeypatch.setenv("APPROVALS_DATABASE_URL", url)
    monkeypatch.setenv("SAGABOX_PEERS", "orchestrator=http://127.0.0.1:9")
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    approvals = Approvals(Names())
    async with approvals.module.engine.begin() as connection:
        for metadata in (tables.metadata, approvals.module.Base.metadata):
            await connection.run_sync(metadata.create_all)
    yield approvals
    await approvals.module.engine.dispose()
    for name in [it for it in sys.modules if it.split(".")[0] == "approvals"]:
        del sys.modules[name]


@pytest.mark.parametrize(("approved", "outcome"), [(True, Outcome.DONE), (False, Outcome.REFUSED)])
async def test_a_person_decides_and_the_run_is_told(
    approvals: Approvals, approved: bool, outcome: Outcome
) -> None:
    ask = approvals.command(approvals.contract.AskForApproval("7", 900))
    assert (await approvals.receive(ask)).is_pending
    (question,) = (await approvals.client.get("/questions")).json()
    assert question == {"id": ask.id, "purchase": "7"}
    assert await approvals.decide(ask.id, approved=approved) == 204
    assert (await approvals.receive(ask)).outcome is outcome
    assert await approvals.decide(ask.id, approved=not approved) == 409
    assert (await approvals.client.get("/questions")).json() == []


async def test_a_decision_after_the_run_turned_back_comes_too_late(approvals: Approvals) -> None:
    ask = approvals.command(approvals.contract.AskForApproval("7", 900))
    undo = approvals.command(approvals.contract.WithdrawQuestion("7"), undoes=(ask.id,))
    await approvals.receive(ask)
    assert (await approvals.receive(undo)).outcome is Outcome.DONE
    assert await approvals.decide(ask.id, approved=True) == 409
    assert (await approvals.client.get("/questions")).json() == []


async def test_a_decision_on_what_was_never_asked_is_not_found(approvals: Approvals) -> None:
    assert await approvals.decide(Names()(), approved=True) == 404
