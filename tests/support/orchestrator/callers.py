"""Callers of the orchestrator: from this machine or from elsewhere, with a token or without."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import httpx
from fastapi import FastAPI
from sqlalchemy import func, select

from orchestrator.access import tokens
from orchestrator.tables import PLAIN, saga, saga_session, saga_token
from outbox.chassis.access.routes import Role
from outbox.database.opening import Database
from outbox.testing import FakeClock
from tests.support.blog.blog import START, Running

HERE = "127.0.0.1"
ELSEWHERE = "192.0.2.1"

REFUSALS = {
    "credentials-missing",
    "credentials-wrong",
    "not-allowed",
    "cross-site",
    "unknown-host",
    "too-many-failures",
    "too-many-requests",
}
"""The words of those who were not let in."""


@asynccontextmanager
async def calling(
    app: FastAPI, peer: str = ELSEWHERE, token: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that application at that address."""
    transport = httpx.ASGITransport(app, client=(peer, 50_000))
    headers = {} if token is None else bearer(token)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1", headers=headers
    ) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    """The header that shows the token."""
    return {"authorization": f"Bearer {token}"}


def clock_of(service: Running) -> FakeClock:
    """The clock of a service that was started by a test."""
    clock = service.chassis.service.clock
    assert isinstance(clock, FakeClock)
    return clock


def code_of(answer: httpx.Response) -> str | None:
    """The word of a problem, if the answer is one."""
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return answer.json()["code"] if is_problem else None


async def give_token(
    database: Database, name: str, role: Role, *, expires_at: datetime | None = None
) -> str:
    """A new token."""
    async with database.engine.begin() as connection:
        return await tokens.create(
            connection, PLAIN, name, role, now=START, expires_at=expires_at, entropy=os.urandom
        )


async def rows(database: Database) -> dict[str, int]:
    """How many sagas, tokens and sessions there are."""
    async with database.reading.connect() as connection:
        return {
            table.name: await connection.scalar(select(func.count()).select_from(table)) or 0
            for table in (saga, saga_token, saga_session)
        }
