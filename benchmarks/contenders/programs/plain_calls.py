"""Deletions by four calls, one after the other, as people write them. Nothing is remembered."""

from __future__ import annotations

import uvloop

from benchmarks.contenders.programs.calls import STEPS, Participants, new_id
from benchmarks.contenders.programs.lines import delete_as_told, settings


async def main() -> None:
    """Delete what the standard input says."""
    told = settings()
    participants = Participants(told["addresses"], told["secret"], told["clients"])

    async def delete(article: str) -> None:
        saga = new_id()
        for service, kind in STEPS:
            await participants.call(service, kind, article, saga)

    await delete_as_told(delete)


if __name__ == "__main__":
    uvloop.run(main())
