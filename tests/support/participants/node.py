"""The example participant in Node.js as a process, also with a fault in its source."""

from __future__ import annotations

import asyncio
import base64
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.testing.conforming.line import Line
from orchestrator.testing.conforming.running import conform
from orchestrator.testing.conforming.trial import Result
from outbox.clock import SystemClock
from outbox.transports.http.signing import Keyring
from tests.support.checkout import ROOT
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

EXAMPLE = ROOT / "examples" / "node_participant"
SECRETS = ",".join(
    f"{name}:{base64.b64encode(name.encode() * 16).decode()}" for name in ("one", "two")
)
PATIENCE = 30.0  # seconds; a machine may have much else to do


@dataclass(frozen=True)
class Patch:
    """A change of the example's source: `old`, which stands once in `file`, becomes `new`."""

    file: str
    old: str
    new: str


class NodeParticipant:
    """The example in a folder of its own; `start` and `kill` as often as a test likes."""

    def __init__(self, folder: Path, patches: Sequence[Patch] = ()) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("there is no node here: install the package nodejs, version 18 or newer")
        self._node = node
        self._has_fault = bool(patches)
        self._source = folder / "source"
        self.journal = folder / "journal"
        self._log = folder / "log"
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        shutil.copytree(EXAMPLE, self._source)
        for patch in patches:
            path = self._source / patch.file
            text = path.read_text()
            assert text.count(patch.old) == 1, (patch.old, text.count(patch.old))
            path.write_text(text.replace(patch.old, patch.new))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    async def start(self) -> None:
        """Start it, and return when it listens."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._node,
                str(self._source / "participant.mjs"),
                str(self.port),
                str(self.journal),
                env={"SAGABOX_SECRETS": SECRETS},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        guardian().entrust_process(self._process.pid)
        await until(self._listens, PATIENCE, "the participant in Node.js listens")

    async def kill(self) -> None:
        """End it with SIGKILL. Fine on one that has ended."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        guardian().release_process(self._process.pid)

    async def restart(self) -> None:
        """Kill it, and start it again."""
        await self.kill()
        await self.start()

    async def tried(self, *only: str) -> list[Result]:
        """The results of these trials, or of all."""
        keys = Keyring.from_text(SECRETS)
        line = Line(self.url, to="conform", keys=keys, clock=SystemClock(), timeout=PATIENCE)
        if self._has_fault:  # and so is not waited for as long as one may be in the field
            line.attempts, line.definite_within, line.restart_within = 3, 5.0, 5.0
        try:
            return [it async for it in conform(line, restart=self.restart, only=only)]
        finally:
            await line.aclose()

    async def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


@asynccontextmanager
async def running_node(
    folder: Path, patches: Sequence[Patch] = ()
) -> AsyncIterator[NodeParticipant]:
    """The participant while it runs."""
    participant = NodeParticipant(folder, patches)
    await participant.start()
    try:
        yield participant
    finally:
        await participant.kill()
