"""`make bench`: how fast this project is, next to others that do the same work in the same run.

    python -m benchmarks [--only PART] [--database NAME] [--flush 1ms] [--record] ...

Without --only it measures what the table of goals needs, and prints the table. It fails where a
ratio is far worse than the one that was recorded. Nothing but loopback is contacted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import uvloop

from benchmarks import guard, names, places, record
from benchmarks.catalogue import PARTS, Amounts
from benchmarks.figures import Figures
from benchmarks.places import Place
from benchmarks.report.tables import figure_tables, goal_table

_ALL_CLIENTS = (1, 16, 64, 256)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables; the exit code."""
    options = _parser().parse_args(arguments)
    # Participants that take nothing are part of what is measured, and no news.
    logging.getLogger().addHandler(logging.NullHandler())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the services have it
        figures = runner.run(_measured(options))
    for name, why in figures.skipped.items():
        print(f"left out: {name}: {why}")
    if options.only:
        for table in figure_tables(figures):
            print(f"\n{table.as_text()}")
    else:
        print(f"\n{goal_table(figures).as_text()}")
    worse = list(guard.complaints(figures, record.figures(record.RECORDED)))
    for sentence in worse:
        print(f"far worse than recorded: {sentence}", file=sys.stderr)
    record.keep(figures, Path("build/bench.json"))
    if options.record:
        record.keep(figures, record.RECORDED)
        record.write_page()
    return 1 if worse else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part")
    parser.add_argument(
        "--database",
        choices=(names.POSTGRESQL, names.SQLITE),
        action="append",
        help="on this one",
    )
    parser.add_argument(
        "--flush",
        choices=("1ms",),
        help="let each flush of PostgreSQL take a millisecond more, as on usual disks",
    )
    parser.add_argument(
        "--record", action="store_true", help="keep the figures, and write them into the docs"
    )
    parser.add_argument("--clients", type=int, action="append", help="that many clients at once")
    for amount in fields(Amounts):
        if amount.type == "int":
            parser.add_argument(f"--{amount.name}", type=int, default=amount.default)
    return parser


async def _measured(options: argparse.Namespace) -> Figures:
    figures, amounts = Figures(), _amounts(options)
    with ExitStack() as stack:
        for place in _places(options, stack):
            for name, part in PARTS.items():
                kind = names.SQLITE if place.is_sqlite else names.POSTGRESQL
                wanted = name in options.only if options.only else kind in part.usual
                if not wanted or (place.is_sqlite and not part.runs_on_sqlite):
                    continue
                began = time.monotonic()
                print(f"{place.name}: {name} ...", end="", file=sys.stderr, flush=True)
                await part.measure(place, figures, amounts)
                print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


def _amounts(options: argparse.Namespace) -> Amounts:
    given = {it.name: getattr(options, it.name) for it in fields(Amounts)}
    usual = _ALL_CLIENTS if options.only else Amounts.clients
    return replace(Amounts(), **{**given, "clients": options.clients or usual})


def _places(options: argparse.Namespace, stack: ExitStack) -> Iterator[Place]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sagabox-bench-")))
    wanted = options.database or (names.POSTGRESQL, names.SQLITE)
    if names.POSTGRESQL in wanted:
        with places.postgresql(folder, slow_flushes=options.flush is not None) as place:
            yield place
    if names.SQLITE in wanted and options.flush is None:
        with places.sqlite(folder) as place:
            yield place


if __name__ == "__main__":
    sys.exit(main())
