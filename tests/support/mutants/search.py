"""Looks for a mutant with the tool that is to find it; in a process that has the mutant's modules.

Here is the first import of the project's own modules: its importer has changed them before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator import tables
from orchestrator.testing import Faults, explore
from orchestrator.testing.simulating import on_database, runner, with_inbox
from orchestrator.testing.simulating.shapes import SHAPES, made_up
from orchestrator.testing.simulating.world import History, World
from orchestrator.testing.virtual.chances import Fault
from orchestrator.testing.virtual.storage import Storage
from outbox import sqlite
from outbox import tables as library
from tests.support.mutants.mutants import Mutant, Tool


@dataclass(frozen=True)
class Finding:
    """What a search came to: `number` is the seed, or the number of worlds that were looked at;
    `promise` is empty where nothing was found."""

    number: int
    promise: str = ""
    problem: str = ""


def search(mutant: Mutant, seeds: range) -> Finding:
    """Look for it, in these histories where that is its tool."""
    logging.disable(logging.CRITICAL)
    match mutant.tool:
        case Tool.EXPLORE:
            return _explored(mutant)
        case Tool.SIMULATE:
            return _simulated(seeds, _faults(mutant))
        case Tool.DATABASE:
            return asyncio.run(_on_sqlite(seeds, _faults(mutant)))
        case Tool.SCENARIO:
            logging.disable(logging.NOTSET)
            # Before pytest looks for modules in its own way: it finds some that have no bug.
            for module in mutant.modules:
                import_module(module)
            return _played(mutant.using.split())


def _faults(mutant: Mutant) -> frozenset[Fault] | None:
    names = [it.strip() for it in mutant.using.split(",") if it.strip()]
    return frozenset(Fault[it.upper().replace(" ", "_")] for it in names) or None


# Explored


def _explored(mutant: Mutant) -> Finding:
    """`using` is the number of a made-up saga, and the faults: 12 losses=1 crashes=1."""
    number, *pairs = mutant.using.split()
    bounds = {name: int(most) for name, _, most in (it.partition("=") for it in pairs)}
    found = explore(made_up(int(number)), faults=Faults(**bounds), at_most=mutant.within)
    if found.violation is None:
        return Finding(found.worlds)
    return Finding(found.worlds, found.violation.promise, found.violation.problem)


# Simulated


def _simulated(seeds: Iterable[int], kinds: frozenset[Fault] | None) -> Finding:
    seed = 0
    for seed in seeds:
        try:
            history = runner.replay(seed=seed, faults=kinds)
        except Exception as error:
            return Finding(seed, "total", f"{type(error).__name__}: {error}")
        if (finding := _finding(seed, history)) is not None:
            return finding
    return Finding(seed)


def _finding(seed: int, history: History) -> Finding | None:
    broken = history.broken
    return None if broken is None else Finding(seed, broken.promise, broken.problem)


async def _on_sqlite(seeds: Iterable[int], kinds: frozenset[Fault] | None) -> Finding:
    seed = 0
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(dir=_memory()))
        path = Path(folder) / "simulated.db"
        _make(path)
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        sqlite.configure(engine)
        stack.push_async_callback(engine.dispose)

        def storage(*arguments: Any) -> Storage:
            return on_database.OnDatabase(engine, *arguments)

        for seed in seeds:
            await on_database.OnDatabase.empty(engine)
            world = World(seed, [made_up(seed % SHAPES)], storage, kinds=kinds)
            try:
                history = await world.run()
            except Exception as error:
                return Finding(seed, "total", f"{type(error).__name__}: {error}")
            if (finding := _finding(seed, history)) is not None:
                return finding
    return Finding(seed)


def _memory() -> str | None:
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None


def _make(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    sqlite.configure(engine)
    with engine.begin() as connection:
        for metadata in (with_inbox.metadata, tables.metadata, library.metadata):
            metadata.create_all(connection)
    engine.dispose()


# Played


_OPTIONS = (
    *("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:xdist.looponfail"),
    # No scenario needs these, and their imports would take as long as all the rest.
    *("-p", "no:schemathesis", "-p", "no:anyio"),
    # Plugins may be there already, and have nothing to rewrite.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


class _Listener:
    """Hears from pytest which tests failed while they ran, and what else went wrong."""

    def __init__(self) -> None:
        self.failed = ""
        self.troubled = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when == "call":
            self.failed = self.failed or report.nodeid
        elif report.failed:
            self.troubled = report.longreprtext


def _played(nodes: list[str]) -> Finding:
    listener = _Listener()
    with TemporaryDirectory(dir=_memory()) as folder:
        code = pytest.main([*_OPTIONS, f"--basetemp={folder}/t", *nodes], plugins=[listener])
    if listener.failed:
        return Finding(1, "scenario", f"{listener.failed} fails")
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"pytest ended with {code!r} before a test failed: {listener.troubled}")
    return Finding(1)
