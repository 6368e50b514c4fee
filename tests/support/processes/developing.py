"""`sagabox dev` as a person runs it, for tests that do what the documentation says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cli.processes.services import SERVICES
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, wait_until

DEADLINE = 60.0  # seconds; a machine that has nothing else to do needs a few


class Dev:
    """A running `sagabox dev`, and what it has printed."""

    def __init__(
        self,
        folder: Path,
        first_port: int,
        environment: Mapping[str, str] | None = None,
        words: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.first_port = first_port
        self._output = folder / "output"
        command = Path(sys.executable).with_name("sagabox")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [command, "dev", *words, "--port-base", str(first_port)],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdout=output,
                stderr=output,
                # A terminal of its own, so to say: Ctrl-C reaches it, and not pytest.
                start_new_session=True,
            )
        guardian().entrust_process(self.process.pid)

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8")

    def has_begun_or_ended(self) -> bool:
        """Whether it holds its folder and found its ports free."""
        return self.process.poll() is not None or "the database of" in self.output

    def pids(self, name: str) -> list[int]:
        """The process ids of each run of the service that got ready."""
        found = re.findall(rf"dev +\| {name} serves at \S+ \(pid (\d+)\)", self.output)
        return [int(it) for it in found]

    def wait_for_run(self, name: str, number: int) -> int:
        """The process id of the `number`-th run of the service."""
        wait_until(
            lambda: len(self.pids(name)) >= number or self.process.poll() is not None,
            DEADLINE,
            f"run {number} of {name}",
        )
        assert self.process.poll() is None, self.output
        pid = self.pids(name)[number - 1]
        guardian().entrust_process(pid)
        return pid

    def press_ctrl_c(self) -> int:
        """What a terminal does at Ctrl-C. Returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(DEADLINE)

    def url(self, name: str) -> str:
        """Where the service listens."""
        return f"http://127.0.0.1:{self.first_port + SERVICES[name].offset}"

    def children(self) -> list[int]:
        """The process ids of all runs of all services."""
        return [it for name in SERVICES for it in self.pids(name)]


@contextmanager
def running_dev(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> Iterator[Dev]:
    """In that folder, which then holds these files, on ports of its own, with these settings beside
    ours."""
    for name, text in (files or {}).items():
        (folder / name).write_text(text, "utf-8")
    # As many again, for gRPC.
    first_port = free_port(in_a_row=2 * max(len(SERVICES), 1 + len(words)))
    running = Dev(folder, first_port, environment, words)
    wait_until(running.has_begun_or_ended, DEADLINE, "dev holds its folder")
    yield running
    running.process.kill()
    running.process.wait(DEADLINE)
    sys.stdout.write(running.output)  # pytest shows it where the test has failed
