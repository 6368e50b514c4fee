"""An orchestrator within an application whose participant is elsewhere, behind a broker."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

import orchestrator
import outbox
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.orchestrator.embedded import (
    TRANSFER,
    Bank,
    Ends,
    Transfer,
    add_handlers,
    bank_schema,
    transfer,
)
from tests.support.outbox.inboxes import ledger_schema
from tests.support.outbox.mangling_broker import ADDRESS, Mangler
from tests.support.outbox.services import SECRETS
from tests.support.processes.waiting import until


async def test_it_reads_the_queue_of_its_name_as_a_process_of_its_own_does(
    database_factory: DatabaseFactory, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Mangler()
    broker.stand_in(monkeypatch)
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    monkeypatch.setenv("SAGABOX_BROKER", ADDRESS)
    remote = outbox.Service(
        "bank", make_engine(database_factory(ledger_schema)), peers={"orchestrator": ADDRESS}
    )
    ends, app = Ends(), FastAPI()
    add_handlers(remote, ends)
    embedded = orchestrator.attach(
        app,
        make_engine(database_factory(bank_schema)),
        sagas=[transfer],
        peers={"bank": ADDRESS},
    )
    here = Bank(app, remote, embedded, ends)
    async with remote.running(), here.running():
        run = await embedded.client.start(TRANSFER, Transfer("ada", "one"))
        assert (await run.wait(20)).status == "COMPLETED"
        assert await here.entries() == ["one", "one, noted"]
        asked = await here.ask("ada", "two")
        await until(lambda: ends.told.get(asked) == "COMPLETED", 20, "its start and its end arrive")
    assert broker.taken.keys() == {"bank", "orchestrator"}
