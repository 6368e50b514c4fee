"""What both services are made of: a database, the door for messages, and a relay for their own."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import outbox
from outbox import tables
from outbox.transports import HttpTransport


def make_app(
    handlers: outbox.Handlers, router: APIRouter, metadata: MetaData, sends_to: Mapping[str, str]
) -> FastAPI:
    """The service with these handlers, addresses and tables. `sends_to` names the services that it
    sends messages to, with their addresses."""
    name, clock = handlers.consumer, outbox.SystemClock()
    keys = outbox.Keyring.from_text(os.environ["SAGABOX_SECRETS"])
    engine = create_async_engine(os.environ[f"SHOP_DATABASE_URL_{name.upper()}"])
    outbox.sqlite.configure(engine)  # SQLite's defaults lose writes
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    installed = outbox.install(sessions, source=name, routes={})
    inbox = outbox.Inbox(handlers, sessions, clock=clock)

    def relay() -> outbox.Relay | None:
        if not sends_to:  # answers to commands go back on the same connection
            return None
        ways = {
            peer: HttpTransport(url, source=name, keys=keys, clock=clock)
            for peer, url in sends_to.items()
        }
        return outbox.Relay(engine, ways, owner=name, clock=clock, bell=installed.bell)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with engine.begin() as connection:  # a real service uses migrations: outbox.schema
            await connection.run_sync(tables.metadata.create_all)
            await connection.run_sync(metadata.create_all)
        async with outbox.Runtime(inbox, relay()).running():
            yield {"sessions": sessions, "new_id": installed.ids}
        await engine.dispose()

    app = FastAPI(title=name, lifespan=lifespan)
    app.include_router(router)
    app.include_router(outbox.receiver(inbox, keys=keys, clock=clock))
    return app


def _sessions(request: Request) -> async_sessionmaker[AsyncSession]:
    found: async_sessionmaker[AsyncSession] = request.state.sessions
    return found


def _new_id(request: Request) -> str:
    return str(request.state.new_id())


# For endpoints, which open their transaction themselves: it has to commit before they answer.
Sessions = Annotated[async_sessionmaker[AsyncSession], Depends(_sessions)]
NewId = Annotated[str, Depends(_new_id)]
