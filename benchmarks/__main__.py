"""`make bench`: what the library costs next to the same work without it, in the same run.

    python -m benchmarks [--messages N] [--transactions N] [--rounds N]

Each figure is the median of its rounds, which alternate with those of what it is compared to. No
figure decides a test: machines differ, and the ratios are what to look at.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import adding, relaying
from benchmarks.measuring import Figure
from tests.support import binaries
from tests.support.postgres import PostgresServer


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000, help="messages in the outbox")
    parser.add_argument("--transactions", type=int, default=400, help="transactions with an add")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure")
    asyncio.run(_run(parser.parse_args()))


async def _run(options: argparse.Namespace) -> None:
    async with _databases() as urls:
        for kind, url in urls.items():
            print(f"\n{kind}")
            _print(await relaying.measure(url, options.messages, options.rounds))
            _print(await adding.measure(url, options.transactions, options.rounds))


@asynccontextmanager
async def _databases() -> AsyncIterator[dict[str, str]]:
    # fsync is on: a commit that is not written to the disk is no measure of anything.
    server = PostgresServer(binaries.from_wheel(), fsync=True)
    try:
        server.create_database("bench")
        with tempfile.TemporaryDirectory(prefix="sagabox-bench-") as folder:
            yield {
                "PostgreSQL": server.url("bench"),
                "SQLite": f"sqlite+aiosqlite:///{Path(folder) / 'bench.sqlite'}",
            }
    finally:
        server.close()


def _print(figures: list[Figure]) -> None:
    base = figures[0]
    for figure in figures:
        ratio = "" if figure is base else f"   {figure.value / base.value:6.2f} x"
        print(f"  {figure.name:52} {figure.value:12,.0f} {figure.unit}{ratio}")


if __name__ == "__main__":
    main()
