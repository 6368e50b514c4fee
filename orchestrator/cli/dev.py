"""`sagabox dev`: all services on SQLite in one folder, restarted when they end."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from orchestrator import bundled
from orchestrator.cli.binding import require_free
from orchestrator.cli.blog import Blog, ports_from
from orchestrator.cli.databases import bring_up_to_date
from orchestrator.cli.errors import CommandError
from orchestrator.cli.secrets import shared_secret
from orchestrator.cli.services import FIRST_PORT, SERVICES
from orchestrator.cli.supervisor import Supervisor

_COLORS = ("cyan", "magenta", "green", "yellow")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def dev(
    port_base: Annotated[
        int,
        typer.Option(
            min=1,
            max=65000,
            metavar="N",
            help="orchestrator listens at N, articles at N+1, comments at N+2.",
        ),
    ] = FIRST_PORT,
    folder: Annotated[
        Path, typer.Option(help="Where the databases, the secret and the logs are.")
    ] = Path(".sagabox"),
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart the services when their code changes.")
    ] = False,
) -> None:
    """Run all services on SQLite, each in a process of its own, until Ctrl-C.

    Makes the folder and the databases where they are missing, and brings the databases up to date.
    A service that ends is started again.
    """
    tell = _Printer([*SERVICES, "dev"])
    ports = ports_from(port_base)
    with _alone_in(folder):
        for name in SERVICES:
            require_free("127.0.0.1", ports[name], "sagabox dev --port-base N")
        blog = Blog(
            databases={it: f"sqlite:///{folder.resolve() / it}.sqlite" for it in SERVICES},
            ports=ports,
            secret=shared_secret(folder / "secret"),
            logs=folder / "logs",
        )
        asyncio.run(bring_up_to_date(blog.databases, lambda line: tell("dev", line)))
        specs = [blog.spec(it, options=["--access-log"]) for it in SERVICES]
        asyncio.run(_supervise(Supervisor(specs, tell, _sources() if reload else ()), tell))


class _Printer:
    """Prints lines with who said them in front, each service in its colour."""

    def __init__(self, speakers: Sequence[str]) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._width = max(map(len, speakers))
        self._colors = dict(zip(speakers, _COLORS, strict=False))

    def __call__(self, speaker: str, line: str) -> None:
        text = Text(f"{speaker:{self._width}} | ", style=self._colors.get(speaker, ""))
        self._console.print(text.append(Text.from_ansi(line)))


async def _supervise(supervisor: Supervisor, tell: _Printer) -> None:
    def stop() -> None:
        tell("dev", "stopping; Ctrl-C again kills")
        supervisor.stop()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    await supervisor.run()
    tell("dev", "stopped")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it. Raises CommandError where another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        # Nothing of this belongs into anybody's repository.
        (folder / ".gitignore").write_text("*\n", encoding="ascii")
    except OSError as error:
        raise CommandError(
            f"{folder} cannot be used", str(error), "sagabox dev --folder ANOTHER"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"{folder} is in use",
                "another sagabox runs its services there",
                "stop that one, or: sagabox dev --folder ANOTHER --port-base N",
            ) from error
        yield


def _sources() -> Sequence[Path]:
    """The folders of the code that the services run."""
    folder = bundled.directory()
    installed = Path(bundled.__file__).parents[1]
    return [installed / "outbox", installed / "orchestrator", *(folder / it for it in SERVICES)]
