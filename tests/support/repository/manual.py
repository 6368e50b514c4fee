"""What a page of the documentation tells its reader to type, and a reader who types it.

A fenced block marked `bash` is run, from the page's top to its bottom, against a running
`sagabox dev`. One marked `sh` needs another machine: it is only held against the options that
there are. Blocks without a mark are looked at by tests of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from tests.support.checkout import ROOT
from tests.support.processes.developing import Dev

_FILL_IN = re.compile(r"export (\w+)=\.\.\.\s+# the (\w+) in that answer")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of the page in that language; "" is for those that name none."""
    text = (ROOT / page).read_text()
    return [
        it[2]
        for it in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        if it[1] == language
    ]


def rows(page: str, name: str) -> list[list[str]]:
    """The cells of the table that stands between these marks, without its head."""
    text = (ROOT / page).read_text()
    table = text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    body = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def commands(page: str, language: str) -> list[str]:
    """The commands of these blocks; one that goes over several lines is one."""
    lines = "".join(blocks(page, language)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


@dataclass(frozen=True)
class Told:
    """What a command printed, and its exit code."""

    command: str
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, which must be JSON."""
        return json.loads(self.out)


@dataclass
class Terminal:
    """A person at another terminal, in the folder in which `sagabox dev` runs.

    `variables` are those that were exported so far. What the page says of the ports from 8000 on
    goes to those that `dev` was given.
    """

    dev: Dev
    variables: dict[str, str] = field(default_factory=dict)
    _last: Told | None = None

    def type(self, command: str) -> Told:
        """Type one line of a page. One that says which part of the last answer goes into a
        variable is done by taking it from there."""
        if fill_in := _FILL_IN.fullmatch(command.strip()):
            assert self._last is not None, command
            self.variables[fill_in[1]] = self._last.json()[fill_in[2]]
            return Told(command, 0, "", "")
        ran = subprocess.run(
            ["bash", "-c", self._here(command)],
            cwd=self.dev.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self._last = Told(command, ran.returncode, ran.stdout, ran.stderr)
        return self._last

    def _here(self, command: str) -> str:
        for service in SERVICES.values():
            there = f"localhost:{FIRST_PORT + service.offset}"
            command = command.replace(there, f"localhost:{self.dev.first_port + service.offset}")
        return command

    def _environment(self) -> Mapping[str, str]:
        bin_ = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PATH": os.pathsep.join((bin_, os.environ["PATH"])),
            "SAGABOX_URL_ORCHESTRATOR": self.dev.url("orchestrator"),
            **self.variables,
        }
