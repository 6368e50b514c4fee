"""`sagabox dev`: all services, on SQLite in one folder, restarted when they end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator import bundled
from orchestrator.cli.processes.binding import require_free
from orchestrator.cli.processes.blog import Blog, ports_from
from orchestrator.cli.processes.databases import bring_up_to_date
from orchestrator.cli.processes.printer import Printer
from orchestrator.cli.processes.secrets import shared_secret
from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from orchestrator.cli.processes.supervisor import Supervisor
from orchestrator.cli.terminal.errors import CommandError

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
    """Run the example, a blog: its services and an orchestrator, a process each, until Ctrl-C. For
    services of your own there are `sagabox run` and `sagabox serve orchestrator`.

    Makes the folder, with a SQLite database for each service for which SAGABOX_DATABASE_URL_SERVICE
    names no other, and brings the databases up to date. A service that ends is started again.
    """
    tell = Printer([*SERVICES, "dev"], Console(highlight=False, soft_wrap=True))
    ports = ports_from(port_base)
    with _alone_in(folder):
        for name in SERVICES:
            require_free("127.0.0.1", ports[name], "sagabox dev --port-base N")
        blog = Blog(
            databases=_databases(folder.resolve(), os.environ),
            ports=ports,
            secret=shared_secret(folder / "secret"),
            logs=folder / "logs",
        )
        asyncio.run(bring_up_to_date(blog.databases, lambda line: tell("dev", line)))
        specs = [blog.spec(it, options=["--access-log"]) for it in SERVICES]

        def greet() -> None:
            for line in _greeting(blog):
                tell("dev", line)

        supervisor = Supervisor(specs, tell, _sources() if reload else (), when_up=greet)
        asyncio.run(_supervise(supervisor, tell))


def _databases(folder: Path, environment: Mapping[str, str]) -> Mapping[str, str]:
    """The address of each service's database: that of the environment, or a file in the folder."""
    return {
        name: environment.get(it.database_variable) or f"sqlite:///{folder / name}.sqlite"
        for name, it in SERVICES.items()
    }


def _greeting(blog: Blog) -> Iterable[str]:
    """The greeting of a new user: where everything is, and what to try."""
    articles, orchestrator = blog.url("articles"), blog.url("orchestrator")
    yield "everything runs; Ctrl-C stops it"
    for name in blog.ports:
        yield f"  {name:12}  {blog.url(name)}  (what it can do: {blog.url(name)}/docs)"
    yield f"  the console   {orchestrator}/console"
    yield "to try, in another terminal, with the id from the first answer:"
    yield (
        f"  curl -X POST {articles}/articles -H 'content-type: application/json'"
        """ -d '{"title": "Tides", "body": "Twice a day.", "author": "ada"}'"""
    )
    yield f"  curl -X DELETE {articles}/articles/ID"
    yield f"  sagabox list --url {orchestrator}"


async def _supervise(supervisor: Supervisor, tell: Printer) -> None:
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
        # None of these files belongs into a repository.
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
