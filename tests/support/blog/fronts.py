"""People who come to the blog by a proxy, which makes strangers of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from tests.support.processes.cli import sagabox
from tests.support.processes.running import RunningBlog

Fronts = dict[str, tuple[str, Mapping[str, str]]]


def open_to_people(url: str) -> dict[str, str]:
    """The settings of services whose public side is at that address."""
    return {
        "SAGABOX_BLOG_OPEN": "1",
        "SAGABOX_PUBLIC_URL_ORCHESTRATOR": url,
        # All callers of a test come from one address.
        "SAGABOX_RATE_LIMIT": "0",
    }


async def fronts_at(url: str, blog: RunningBlog) -> Fronts:
    """People ask all services at that address, and the orchestrator with a token of their own."""
    token = await asyncio.to_thread(_token, blog.databases["orchestrator"].url)
    shown = {"authorization": f"Bearer {token}"}
    return {"orchestrator": (url, shown), "articles": (url, {}), "comments": (url, {})}


def _token(database: str) -> str:
    options = ("--role", "admin", "--database", database, "--json")
    told = sagabox("token", "create", "people", *options)
    assert told.code == 0, told
    token: str = json.loads(told.out)["token"]
    return token
