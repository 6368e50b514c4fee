"""A contender's program: started, told by lines of JSON what to do, and ended."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders.installed import Environment, Missing
from benchmarks.measuring import Load
from tests.support.checkout import ROOT
from tests.support.processes.guardian import guardian

_PROGRAMS = "benchmarks.contenders.programs"
_LINE = 2**26
_LINES_OF_LOG = 5
_STARTS_WITHIN = 60.0
_ENDS_WITHIN = 20.0
_ANSWERS_WITHIN = 300.0


class Program:
    """Made by `running`."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def ask(self, order: Mapping[str, Any], timeout: float = _ANSWERS_WITHIN) -> Any:
        """Its answer to one line. Raises Missing, with the end of its log, where there is none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self.answer(timeout)

    async def answer(self, timeout: float) -> Any:
        """Its next line."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            log = self._log.read_text("utf-8", "replace").split("\n")
            said = " ".join(line.strip(" |") for line in log[-_LINES_OF_LOG:])
            raise Missing(f"{self._name} ended, or gave no answer within {timeout:g} s: {said}")
        return json.loads(line)

    async def delete(self, articles: Sequence[str], clients: int) -> Load:
        """Let it delete them, so many at once."""
        told = await self.ask({"clients": clients, "articles": articles})
        return Load(told["seconds"], told["latencies"])


@asynccontextmanager
async def running(
    name: str, settings: Mapping[str, Any], log: Path, environment: Environment | None = None
) -> AsyncIterator[Program]:
    """The program of that name, ready, until the end of the block: with this environment's Python,
    or with the project's own. Raises Missing."""
    python = sys.executable if environment is None else str(environment.python())
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", f"{_PROGRAMS}.{name}", json.dumps(settings)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            limit=_LINE,
            start_new_session=True,
        )
    guardian().entrust_process(process.pid)
    program = Program(name, process, log)
    try:
        await program.answer(_STARTS_WITHIN)
        yield program
    finally:
        await _end(process)
        guardian().release_process(process.pid)


async def _end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_ENDS_WITHIN):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
