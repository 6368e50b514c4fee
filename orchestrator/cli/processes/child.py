"""Services as child processes: start one, wait until it serves, stop it, kill it, start it again.

`sagabox dev` and `sagabox demo` run their services with it. A child has a session of its own, so
that Ctrl-C reaches the parent alone; it is killed when the parent ends in any way (`lifeline`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.processes import lifeline
from orchestrator.cli.processes.logs import tail
from orchestrator.cli.terminal.errors import CommandError

if TYPE_CHECKING:
    import httpx

START_TIMEOUT = 30.0
"""Seconds that a service may take from its start until it is ready."""
STOP_TIMEOUT = 18.0
"""Seconds from SIGTERM to SIGKILL: requests have 5, and then handlers that take long 10."""

_PAUSE = 0.05  # seconds between two questions whether a service is ready


@dataclass(frozen=True)
class Spec:
    """The spec of a service: its command and its address. It starts a service any number of times.

    `environment` is the child's whole environment. What it prints is appended to `log`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    url: str
    log: Path


class Child:
    """One run of a service. Made by `start`; ended by `stop`, `kill`, or by itself."""

    def __init__(self, spec: Spec, process: Process) -> None:
        self.spec = spec
        self._process = process

    @classmethod
    async def start(cls, spec: Spec) -> Child:
        """Start the service, and return at once; `ready` tells when it serves.

        Call it from a thread that lives as long as the child shall. Raises CommandError where the
        program cannot be run or the log not be written.
        """
        environment = {**spec.environment, lifeline.VARIABLE: str(os.getpid())}
        try:
            spec.log.parent.mkdir(parents=True, exist_ok=True)
            with spec.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *spec.command,
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise CommandError(
                f"{spec.name} cannot be started", str(error), f"look at {error.filename}"
            ) from error
        return cls(spec, process)

    @property
    def pid(self) -> int:
        """The process id. Only while `running` is it surely this child's."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as is known."""
        return self._process.returncode is None

    async def ready(self, timeout: float = START_TIMEOUT) -> None:
        """Return when the service answers 200 at /readyz.

        Raises CommandError, with the end of its log, where it ends before or takes longer.
        """
        import httpx

        try:
            async with asyncio.timeout(timeout):
                async with httpx.AsyncClient(base_url=self.spec.url, trust_env=False) as client:
                    while not (self.running and await _answers(client)):
                        if not self.running:
                            raise self._not_ready(f"it ended ({self.ending})")
                        await asyncio.sleep(_PAUSE)
        except TimeoutError:
            raise self._not_ready(f"/readyz did not answer 200 within {timeout:g} s") from None

    async def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Ask it to end (SIGTERM), and kill it when it has not after `timeout` seconds.

        Returns its exit code, negative for a signal. Fine on a child that has ended.
        """
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                return await self._process.wait()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it with SIGKILL; it gets no chance to do anything more. Returns its exit code."""
        self.send_kill()
        return await self._process.wait()

    def send_kill(self) -> None:
        """End it with SIGKILL, without waiting for the end."""
        self._send(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it stand still (SIGSTOP) until `thaw`. A frozen child can be killed, not stopped."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    async def wait(self) -> int:
        """Return its exit code when it has ended."""
        return await self._process.wait()

    async def restart(self) -> Child:
        """Stop it, start the same service again, and return the new run when it is ready."""
        await self.stop()
        child = await Child.start(self.spec)
        await child.ready()
        return child

    @property
    def ending(self) -> str:
        """How it ended, in words: "exit code 2", "SIGKILL"; "running" while it has not."""
        code = self._process.returncode
        if code is None:
            return "running"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself meanwhile
            self._process.send_signal(number)

    def _not_ready(self, why: str) -> CommandError:
        lines = "".join(f"\n        {it}" for it in tail(self.spec.log))
        said = f"; the end of its log:{lines}" if lines else ""
        return CommandError(
            f"{self.spec.name} does not serve at {self.spec.url}",
            why + said,
            f"the whole log: {self.spec.log}",
        )


async def _answers(client: httpx.AsyncClient) -> bool:
    from httpx import TransportError, codes

    try:
        return (await client.get("/readyz")).status_code == codes.OK
    except TransportError:
        return False
