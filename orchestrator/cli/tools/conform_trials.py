"""The trials of `sagabox conform`: of a participant at an address, or of a service of the caller's
own, which is run, killed, and run again."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.processes.blog import SAGABOX
from orchestrator.cli.processes.child import Child, Spec
from orchestrator.cli.processes.ports import free_ports
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import print_line
from orchestrator.testing.conforming import running
from orchestrator.testing.conforming.conversation import Restart
from orchestrator.testing.conforming.line import Line
from orchestrator.testing.conforming.trial import Result
from outbox.clock import SystemClock
from outbox.errors import InvalidKeyring
from outbox.transports.http.signing import Keyring

_RESTART_TAKES = 60.0  # seconds
_SECRETS = "SAGABOX_SECRETS"


@dataclass(frozen=True)
class Wanted:
    """What is to be tried: the participant at `url`, or the service `module`. `restart` is a
    command of the shell; without it a person may be asked."""

    url: str | None
    module: str | None
    to: str
    timeout: float
    restart: str | None
    only: tuple[str, ...]
    may_ask: bool


async def tried(wanted: Wanted, show: Callable[[Result], None]) -> list[Result]:
    """The results, each of which is shown once it is there. Raises CommandError."""
    results: list[Result] = []
    async with _line(wanted) as (line, restart):
        try:
            await running.greet(line)
        except running.NoParticipant as error:
            raise CommandError(
                error.happened,
                error.why,
                error.next_step,
                exit_code=ExitCode.UNREACHABLE if error.is_silent else ExitCode.REFUSED,
            ) from None
        async for result in running.conform(line, restart=restart, only=wanted.only):
            results.append(result)
            show(result)
    return results


@asynccontextmanager
async def _line(wanted: Wanted) -> AsyncIterator[tuple[Line, Restart | None]]:
    """The line to the participant, and how it is restarted."""
    if wanted.module is not None:
        async with (
            _served(wanted.module, os.environ) as (address, secrets, restart),
            _closing(address, Keyring.from_text(secrets), wanted) as line,
        ):
            yield line, restart
        return
    assert wanted.url is not None, "one of the two is given"
    restart_ = restart_by(wanted.restart, may_ask=wanted.may_ask)
    async with _closing(wanted.url, _keys(), wanted) as line:
        yield line, restart_


@asynccontextmanager
async def _closing(address: str, keys: Keyring, wanted: Wanted) -> AsyncIterator[Line]:
    line = Line(address, to=wanted.to, keys=keys, clock=SystemClock(), timeout=wanted.timeout)
    try:
        yield line
    finally:
        await line.aclose()


def _keys() -> Keyring:
    secrets = os.environ.get(_SECRETS, "")
    if not secrets:
        raise CommandError(
            f"{_SECRETS} is not set", "requests are signed with it", f"export {_SECRETS}=id:base64"
        )
    try:
        return Keyring.from_text(secrets)
    except InvalidKeyring as error:
        raise CommandError(f"{_SECRETS} is wrong", error.problem, error.next_step) from None


def restart_by(command: str | None, *, may_ask: bool) -> Restart | None:
    """The way to restart the participant: a command of the shell, or a person at this terminal."""
    if command is not None:
        return lambda: _run(command)
    if may_ask and sys.stdin.isatty() and sys.stdout.isatty():
        return _ask
    return None


async def _run(command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_RESTART_TAKES):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise _not_restarted(
            f"it did not end within {_RESTART_TAKES:g} s",
            "let it start the participant in the background (with &), and end",
        ) from None
    if code != 0:
        raise _not_restarted(
            f"it ended with {code}", "let it end with 0 once the participant is started again"
        )


def _not_restarted(why: str, next_step: str) -> CommandError:
    return CommandError("--restart did not restart the participant", why, next_step)


async def _ask() -> None:
    print_line("Now kill the participant (kill -9), start it again, and press Enter.", "bold")
    await asyncio.to_thread(sys.stdin.readline)


@asynccontextmanager
async def _served(
    where: str, environment: Mapping[str, str]
) -> AsyncIterator[tuple[str, str, Restart]]:
    """The service at `MODULE[:NAME]` as a process: its address, its secrets, and its restart by
    SIGKILL. Its log is deleted in the end, but not where the service does not serve.

    Raises CommandError then, which names the log.
    """
    (port,) = free_ports(1, spread=os.getpid())
    # Two of them, so that it is tried whether each is valid.
    secrets = ",".join(
        f"{name}:{base64.b64encode(os.urandom(32)).decode()}" for name in ("one", "two")
    )
    folder = Path(tempfile.mkdtemp(prefix="sagabox-conform-"))
    spec = Spec(
        name=where,
        command=(*SAGABOX, "run", where, "--port", str(port)),
        environment={**environment, "SAGABOX_SECRETS": secrets},
        url=f"http://127.0.0.1:{port}",
        log=folder / "participant.log",
    )
    child = await Child.start(spec)

    async def restart() -> None:
        nonlocal child
        await child.kill()
        child = await Child.start(spec)
        await child.ready()

    try:
        await child.ready()
        yield spec.url, secrets, restart
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        await child.stop()
