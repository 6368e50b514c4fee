"""The same as a service of Restate: four steps that make the same calls."""

from __future__ import annotations

import asyncio
from typing import Any

import hypercorn
import hypercorn.asyncio
import restate
import uvloop

from benchmarks.contenders.programs.calls import STEPS, Participants, new_id
from benchmarks.contenders.programs.lines import lines, settings, tell

told = settings()
participants = Participants(told["addresses"], told["secret"], told["clients"])
deletion = restate.Service("deletion")


@deletion.handler()
async def delete(context: restate.Context, article: str) -> None:
    """All four."""
    saga = await context.run_typed("saga", new_id)
    for service, kind in STEPS:
        await context.run_typed(
            kind, participants.call, service=service, kind=kind, article=article, saga=saga
        )


async def main() -> None:
    """Serve until the standard input ends."""
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{told['port']}"]
    config.h2_max_concurrent_streams = 2**31 - 1
    config.keep_alive_max_requests = 2**31 - 1
    config.loglevel = "WARNING"
    ended = asyncio.Event()
    app: Any = restate.app(services=[deletion])
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=ended.wait))
    told_lines = await lines()
    tell({"ready": True})
    await told_lines.read()
    ended.set()
    await serving


if __name__ == "__main__":
    uvloop.run(main())
