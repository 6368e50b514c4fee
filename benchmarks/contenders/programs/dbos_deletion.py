"""The same as a workflow of DBOS: four steps that make the same calls.

The clients call the workflow in its own process, which spares DBOS a request for each.
"""

from __future__ import annotations

from typing import Any

import uvloop
from dbos import DBOS

from benchmarks.contenders.programs.calls import STEPS, Participants, new_id
from benchmarks.contenders.programs.lines import delete_as_told, settings

told = settings()
participants = Participants(told["addresses"], told["secret"], told["clients"])


@DBOS.step()
async def call(service: str, kind: str, article: str, saga: str) -> Any:
    """One command."""
    return await participants.call(service, kind, article, saga)


@DBOS.workflow()
async def delete_article(article: str, saga: str) -> None:
    """All four."""
    for service, kind in STEPS:
        await call(service, kind, article, saga)


async def main() -> None:
    """Delete what the standard input says."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": told["database"],
            "log_level": "WARNING",
        }
    )
    DBOS.launch()

    async def delete(article: str) -> None:
        await delete_article(article, new_id())

    await delete_as_told(delete)
    DBOS.destroy()


if __name__ == "__main__":
    uvloop.run(main())
