"""The program of either service.

    python -m benchmarks.hearing.services talker PORT

`BENCH_DATABASE_URL` is its database; peers and secrets come from the environment as always.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import uvicorn
from fastapi import FastAPI
from sqlalchemy import Column, Connection, Double, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import outbox
from orchestrator.cli.processes import lifeline
from outbox import tables
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import Broker

TALKER, HEARER = "talker", "hearer"
MOCK_OF_KAFKA = "BENCH_MOCK_OF_KAFKA"
"""The setting with the address of a mock cluster that the hearer reads its queue at."""
_FETCH = 0.1

metadata = MetaData()
heard = Table(
    "heard",
    metadata,
    Column("key", String(100), primary_key=True),
    Column("at", Double, nullable=False),
)
"""What the hearer has heard, and when: by `time.monotonic`, which all processes of a machine
share."""


@dataclass(frozen=True)
class Noted(outbox.Event, type="talker.noted.v1", key="key"):
    """Something to hear."""

    key: str
    text: str


ROUTES = {Noted: [HEARER]}


def schema(connection: Connection) -> None:
    """The tables of either."""
    tables.metadata.create_all(connection)
    metadata.create_all(connection)


def talker() -> FastAPI:
    """The application that sends: `POST /notes/KEY` adds an event and answers after the commit."""
    engine = create_async_engine(os.environ["BENCH_DATABASE_URL"])
    service = outbox.Service(TALKER, engine, routes=ROUTES)
    app = FastAPI()
    service.attach(app)

    @app.post("/notes/{key}", status_code=201)
    async def note(key: str) -> None:
        async with service.sessions.begin() as session:
            outbox.add(session, Noted(key, "x" * 280))

    return app


def hearer() -> FastAPI:
    """The application that receives, and notes the time in the transaction of the inbox."""
    engine = create_async_engine(os.environ["BENCH_DATABASE_URL"])
    service = outbox.Service(HEARER, engine)
    if MOCK_OF_KAFKA in os.environ:
        service.entrance.listen_broker(partial(_mock_of_kafka, os.environ[MOCK_OF_KAFKA]))
    app = FastAPI()
    service.attach(app)

    @service.on_list(Noted)
    async def hear(
        session: AsyncSession, events: Sequence[Noted], _: Sequence[outbox.Context]
    ) -> list[None]:
        now = time.monotonic()
        await session.execute(insert(heard), [{"key": it.key, "at": now} for it in events])
        return [None] * len(events)

    return app


def _mock_of_kafka(address: str) -> Broker:
    """It answers no fetch before its wait is over, which is short here for that reason."""
    from outbox.transports.brokers.kafka import KafkaBroker

    return KafkaBroker(BrokerAddress.parse(address), longest_fetch=_FETCH)


if __name__ == "__main__":
    lifeline.tie_to_parent()
    name, port = sys.argv[1:]
    uvicorn.run(
        {TALKER: talker, HEARER: hearer}[name](),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        log_level="warning",
    )
