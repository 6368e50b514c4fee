"""The stream of a run's history, as a client at an address sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from tests.support.processes.waiting import until

_PATIENCE = 20.0  # seconds


async def shows_all_there_is(url: str, headers: Mapping[str, str]) -> bool:
    """Whether the stream of the run at that address shows each line that is there, while it is
    open. A proxy that holds the stream up until there is more of it, or until its end, keeps the
    last ones back."""
    client = httpx.AsyncClient(trust_env=False, timeout=_PATIENCE, headers=dict(headers))
    async with client:
        last = max(line["number"] for line in await _history(client, url))
        try:
            async with asyncio.timeout(_PATIENCE), client.stream("GET", f"{url}/events") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("id:") and int(line.removeprefix("id:")) >= last:
                        return True
        except TimeoutError:
            return False
    return False


async def _history(client: httpx.AsyncClient, url: str) -> list[dict[str, Any]]:
    """The lines that are there. A run is not found until the message that starts it has come."""
    answers: list[httpx.Response] = []

    async def is_found() -> bool:
        answers.append(await client.get(f"{url}/history", params={"limit": 200}))
        return answers[-1].status_code != httpx.codes.NOT_FOUND

    await until(is_found, deadline=_PATIENCE, what="the run is found")
    lines: list[dict[str, Any]] = answers[-1].raise_for_status().json()["items"]
    return lines
