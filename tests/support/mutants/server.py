"""Runs each mutant in a process of its own: forked from one that has imported what the project
builds on, and nothing of the project, so that every module comes with the bug in it.

Run as a program, this is the process that forks. It does one thing after the other.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

from tests.support.checkout import ROOT
from tests.support.mutants.mutants import FOLDER, Mutant, parsed

OURS = frozenset({"outbox", "orchestrator", "articles", "comments", "migrations"})
_IMPORTED = (
    *("aiosqlite", "asyncpg", "fastapi", "httpx", "hypothesis", "opentelemetry.trace", "orjson"),
    *("prometheus_client", "psutil", "psycopg", "pydantic_settings", "pytest", "pytest_asyncio"),
    *("sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.postgresql.psycopg"),
    *("sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.ext.asyncio", "structlog", "typer"),
    *("uvicorn", "alembic.config", "http.server", "xml.dom.minidom", "pdb", "doctest"),
)
_SECONDS = 60
"""CPU time after which a search is ended."""


@dataclass(frozen=True)
class Searched:
    """What became of a search: `number` is the seed, or how many worlds were looked at; `promise`
    is what was broken, empty where the mutant was not found; `seconds` are of CPU time, of which
    it took `starting` to import everything."""

    number: int
    promise: str
    problem: str
    seconds: float
    starting: float


class SearchFailed(Exception):
    """The tool could not be used on the mutant at all."""


class MutantServer:
    """The process that forks, as this process sees it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                env={**kept, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        self._lines = ours.makefile("rw")

    def search(self, mutant: Mutant, seeds: range) -> Searched:
        """Look for the mutant in these histories. Raises SearchFailed."""
        order = {"name": mutant.name, "seeds": [seeds.start, seeds.stop]}
        self._lines.write(f"{json.dumps(order)}\n")
        self._lines.flush()
        told = json.loads(self._lines.readline() or '{"error": "the process that forks is gone"}')
        if "error" in told:
            raise SearchFailed(f"mutant {mutant.name}: {told['error']}")
        return Searched(**told)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait(10)
        self._lines.close()
        self._socket.close()


# --- The process that forks --------------------------------------------------------------------


class _Patched(importlib.abc.MetaPathFinder):
    """Finds the modules that a mutant changes, with its source."""

    def __init__(self, sources: Mapping[str, tuple[str, str]]) -> None:
        self._sources = sources
        self.loaded: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        file, source = self._sources[fullname]
        self.loaded.add(fullname)
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Loader(fullname, file, source)
        )


class _Loader(importlib.machinery.SourceFileLoader):
    """Takes the source that it is given for the file's."""

    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._source, self.path, "exec", dont_inherit=True)
        return code


def _serve(connection: socket.socket) -> None:
    for module in _IMPORTED:
        import_module(module)
    if ours := sorted(OURS & {name.partition(".")[0] for name in sys.modules}):
        raise RuntimeError(f"{', '.join(ours)} would be shared by all mutants")
    gc.collect()
    gc.freeze()
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            lines.write(f"{_forked(json.loads(line))}\n")
            lines.flush()


def _forked(order: Mapping[str, Any]) -> str:
    """One line of JSON: what came of it."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(reading) as answer:
        pid = os.fork()
        if pid == 0:
            _become(order, writing, output.fileno())
        os.close(writing)
        told = answer.read()
        _, status = os.waitpid(pid, 0)
        if told:
            return told
        output.seek(0)
        end = os.waitstatus_to_exitcode(status)
        said = output.read().decode(errors="replace")[-3000:]
        return json.dumps({"error": f"its process ended with {end}: {said}"})


def _become(order: Mapping[str, Any], writing: int, output: int) -> NoReturn:
    """Be the process of one mutant, to the end."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        for number in (1, 2):
            os.dup2(output, number)
        told = json.dumps(_searched(order))
        os.write(writing, told.encode())
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _searched(order: Mapping[str, Any]) -> dict[str, Any]:
    began = time.process_time()
    name = order["name"]
    mutant = parsed(name, (FOLDER / f"{name}.patch").read_text())
    sources = {
        module: (str(Path(ROOT) / path), mutant.source(path))
        for module, path in zip(mutant.modules, mutant.hunks, strict=True)
    }
    finder = _Patched(sources)
    sys.meta_path.insert(0, finder)
    tool = import_module("tests.support.mutants.search")
    starting = time.process_time() - began
    finding = tool.search(mutant, range(*order["seeds"]))
    if unused := sources.keys() - finder.loaded:
        raise RuntimeError(f"{', '.join(sorted(unused))} was never imported")
    seconds = time.process_time() - began
    return {**asdict(finding), "seconds": seconds, "starting": starting}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(socket.socket(fileno=int(sys.argv[1])))
