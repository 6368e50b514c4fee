"""/livez: the process answers. /readyz: it can do its work. Both are open to all callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from outbox.chassis.http.database_problems import database_problem
from outbox.chassis.http.problems import HttpProblem, documented
from outbox.coordination.progress import Progress
from outbox.errors import OutboxError

Check = Callable[[], Awaitable[None]]
"""A check of the service, which raises where something is wrong."""


class NotReady(OutboxError):
    """A check found the service unable to work."""


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """These checks found nothing wrong."""

    status: Literal["ready"] = "ready"
    checks: list[str]


def router(checks: Callable[[], Mapping[str, Check]], *, timeout: float = 2.0) -> APIRouter:
    """The two addresses; `checks` gives what is checked now. A check that takes longer than
    `timeout` seconds counts as failed."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/livez", summary="Whether the process answers")
    async def livez() -> Alive:
        return Alive()

    @routes.get(
        "/readyz",
        summary="Whether the service can do its work",
        responses=documented({503: "It cannot; the detail names what fails"}),
    )
    async def readyz() -> Ready:
        wanted = checks()
        failures = await asyncio.gather(
            *(_failure(name, check, timeout) for name, check in wanted.items())
        )
        found = [failure for failure in failures if failure is not None]
        if found:
            raise HttpProblem(
                503,
                "not-ready",
                " ".join(f"{name}: {problem}." for name, problem, _ in found),
                next_step=found[0][2],
                retry_after=2,
            )
        return Ready(checks=list(wanted))

    return routes


def work(progress: Progress, *, threads: bool = True) -> Check:
    """A check that all kinds of work get on. With `threads` it also gives the event loop's thread
    pool an empty task, which gets stuck where handlers hang in all its threads; an application
    whose own long jobs run there does without."""
    pool = progress.of("run in a thread")

    async def check() -> None:
        if threads and pool.is_idle:
            pool.begin()
            asked = asyncio.get_running_loop().run_in_executor(None, _nothing)
            asked.add_done_callback(lambda _: pool.end())
        if found := progress.stuck():
            told = ", ".join(f'"{it.kind}" for {it.seconds:.0f} s' for it in found)
            raise NotReady(
                f"no work of this kind has ended while it is under way: {told}",
                next_step="restart the process: what was not committed is done again. The log and "
                "the database's list of sessions say what it waits for",
            )

    return check


def _nothing() -> None:
    pass


async def _failure(name: str, check: Check, timeout: float) -> tuple[str, str, str] | None:
    try:
        async with asyncio.timeout(timeout):
            await check()
    except OutboxError as error:
        return name, error.problem, error.next_step
    except Exception as error:  # any error is this check's answer
        problem = database_problem(error)
        if problem is None:
            return name, "the check itself failed", "See the service's log."
        return name, problem.detail.rstrip("."), problem.next_step
    return None
