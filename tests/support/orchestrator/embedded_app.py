"""The bank with its orchestrator, as a server of several workers has it."""

import os

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.orchestrator.embedded import TRANSFER, Transfer, bank
from tests.support.processes.preparing import prepare

prepare()
made = bank(create_async_engine(os.environ["BANK_DATABASE_URL"]))
app: FastAPI = made.app


@app.post("/transfers/{account}")
async def transfer(account: str, entry: str, wait: float = 30.0) -> dict[str, str]:
    """Start a transfer, and wait for its end."""
    run = await made.orchestrator.client.start(TRANSFER, Transfer(account, entry))
    state = await run.wait(wait)
    return {"id": run.id, "status": state.status}


@app.post("/asked/{account}")
async def ask(account: str, entry: str, id: str | None = None) -> dict[str, str]:
    """Ask for a transfer by a message."""
    return {"id": await made.ask(account, entry, id)}


@app.get("/ends/{id}")
async def end(id: str) -> dict[str, str]:
    """Wait for the end of that transfer."""
    return {"status": (await made.orchestrator.client.run(id).wait(30)).status}
