"""`make bench`: what the library costs next to the same work without it, in the same run.

    python -m benchmarks [--only PART] [--messages N] [--transactions N] [--sagas N] [--rounds N]

Each figure is the median of its rounds, which alternate with those of what it is compared to. No
figure decides a test: machines differ, and the ratios are what to look at.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks import adding, engine, relaying, sagas
from benchmarks.measuring import Figure
from benchmarks.places import Place
from tests.support.databases import binaries
from tests.support.databases.databases import PostgresTemplates, SqliteTemplates
from tests.support.databases.postgres import PostgresServer

_PARTS = ("relaying", "adding", "engine", "sagas")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=_PARTS, action="append", help="measure this part")
    parser.add_argument(
        "--database", choices=("PostgreSQL", "SQLite"), action="append", help="on this one"
    )
    parser.add_argument("--messages", type=int, default=20_000, help="messages in the outbox")
    parser.add_argument("--transactions", type=int, default=400, help="transactions with an add")
    parser.add_argument("--sagas", type=int, default=480, help="deletions at the most clients")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the services have it
        runner.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    parts, rounds = options.only or _PARTS, options.rounds
    with _places() as places:
        for place in places:
            if options.database and place.name not in options.database:
                continue
            print(f"\n{place.name}", flush=True)
            if "relaying" in parts:
                _print(await relaying.measure(place.url, options.messages, rounds))
            if "adding" in parts:
                _print(await adding.measure(place.url, options.transactions, rounds))
            if "engine" in parts:
                engine.show(await engine.measure(place, options.sagas * 2, rounds))
            if "sagas" in parts:
                sagas.show(await sagas.measure(place.fresh, place.folder, options.sagas, rounds))


@contextmanager
def _places() -> Iterator[list[Place]]:
    # fsync is on: a commit that is not written to the disk is no measure of anything.
    server = PostgresServer(binaries.from_wheel(), fsync=True)
    try:
        server.create_database("bench")
        with tempfile.TemporaryDirectory(prefix="sagabox-bench-") as name:
            folder = Path(name)
            yield [
                Place(
                    "PostgreSQL",
                    server.url("bench"),
                    PostgresTemplates(server).fresh,
                    folder / "postgresql",
                ),
                Place(
                    "SQLite",
                    f"sqlite+aiosqlite:///{folder / 'bench.sqlite'}",
                    SqliteTemplates(folder).fresh,
                    folder / "sqlite",
                ),
            ]
    finally:
        server.close()


def _print(figures: list[Figure]) -> None:
    base = figures[0]
    for figure in figures:
        ratio = "" if figure is base else f"   {figure.value / base.value:6.2f} x"
        print(f"  {figure.name:52} {figure.value:12,.0f} {figure.unit}{ratio}")


if __name__ == "__main__":
    main()
