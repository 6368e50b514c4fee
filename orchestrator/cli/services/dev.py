"""`sagabox dev`: all services, on SQLite in one folder, restarted when they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.ways.way import HELP, HTTP, METAVAR

if TYPE_CHECKING:
    from orchestrator.cli.processes.blog import Blog
    from orchestrator.cli.processes.child import Spec
    from orchestrator.cli.processes.printer import Printer
    from orchestrator.cli.processes.supervisor import Supervisor
    from orchestrator.cli.services.own import Own
    from orchestrator.cli.ways.way import Way

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ORCHESTRATOR = "orchestrator"


def dev(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]MODULE:SERVICE]...",
            help="Services of your own, such as shop.stock:service; NAME= where the service is not "
            "named like its module. Without any: the example, a blog.",
        ),
    ] = None,
    port_base: Annotated[
        int,
        typer.Option(
            min=1,
            max=65000,
            metavar="N",
            help="The orchestrator listens at N, the services at N+1, N+2 and so on.",
        ),
    ] = FIRST_PORT,
    folder: Annotated[
        Path, typer.Option(help="Where the databases, the secret and the logs are.")
    ] = Path(".sagabox"),
    transport: Annotated[
        str,
        typer.Option(
            metavar=METAVAR,
            help=f"{HELP} The ports of gRPC follow those of HTTP, in the same order.",
        ),
    ] = HTTP,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart the services when their code changes.")
    ] = False,
) -> None:
    """Run services and an orchestrator, a process each, until Ctrl-C: your own, or the example, a
    blog. A service that ends is started again.

    Makes the folder, with a SQLite database for each service for which SAGABOX_DATABASE_URL_SERVICE
    names no other. The orchestrator's, and the blog's, are brought up to date. The tables of your
    own services are yours to make; a service reads the address of its database from that variable,
    and the orchestrator its sagas from SAGABOX_SAGAS.
    """
    import asyncio

    from rich.console import Console

    from orchestrator.cli.processes.binding import require_free
    from orchestrator.cli.processes.blog import Blog
    from orchestrator.cli.processes.databases import bring_up_to_date
    from orchestrator.cli.processes.printer import Printer
    from orchestrator.cli.processes.secrets import shared_secret
    from orchestrator.cli.processes.supervisor import Supervisor
    from orchestrator.cli.ways.way import way_named

    own = _asked_for(services or [])
    ports = _ports(own, port_base)
    tell = Printer([*ports, "dev"], Console(highlight=False, soft_wrap=True))
    command = "sagabox dev --transport"
    with _alone_in(folder), way_named(transport, folder.resolve(), command) as way:
        grpc_ports = _grpc_ports(way, ports)
        for port in (*ports.values(), *grpc_ports.values()):
            require_free("127.0.0.1", port, "sagabox dev --port-base N")
        group = Blog(
            databases=_databases(own, folder.resolve(), os.environ),
            ports=ports,
            secret=shared_secret(folder / "secret"),
            logs=folder / "logs",
            has_bundle=not own,
            grpc_ports=grpc_ports,
            broker=way.broker,
        )
        specs = _specs(own, group)
        asyncio.run(bring_up_to_date(_migrated(own, group), lambda line: tell("dev", line)))

        def greet() -> None:
            lines = _own_greeting(group) if own else _greeting(group)
            for line in (*lines, *_of_way(way, group)):
                tell("dev", line)

        supervisor = Supervisor(specs, tell, _sources(own) if reload else (), when_up=greet)
        asyncio.run(_supervise(supervisor, tell))


def _asked_for(arguments: Sequence[str]) -> Sequence[Own]:
    """The services of the user's own. Raises CommandError where they cannot be run together, and
    OutboxError where the environment asks for traces that cannot be sent."""
    from orchestrator.cli.services.own import own_services
    from outbox.chassis.span_export import require_extra

    require_extra()
    return own_services(arguments)


def _ports(own: Sequence[Own], first: int) -> Mapping[str, int]:
    """The port of each service."""
    from orchestrator.cli.processes.blog import ports_from

    if not own:
        return ports_from(first)
    names = (_ORCHESTRATOR, *(it.name for it in own))
    return {name: first + number for number, name in enumerate(names)}


def _migrated(own: Sequence[Own], group: Blog) -> Mapping[str, str]:
    """The databases whose tables are made here: a user's own services have migrations."""
    theirs = {it.name for it in own}
    return {name: it for name, it in group.databases.items() if name not in theirs}


def _of_way(way: Way, group: Blog) -> Iterable[str]:
    """How messages go, where that is not over HTTP."""
    ports = ", ".join(f"{port} ({name})" for name, port in group.grpc_ports.items())
    if way.told is not None:
        yield f"{way.told}, at {ports}" if ports else way.told


def _grpc_ports(way: Way, ports: Mapping[str, int]) -> Mapping[str, int]:
    """Where each service listens for gRPC, if they are to use it."""
    if not way.is_grpc:
        return {}
    return {name: max(ports.values()) + 1 + number for number, name in enumerate(ports)}


def _specs(own: Sequence[Own], group: Blog) -> list[Spec]:
    from orchestrator.cli.services import own as own_processes

    options = ["--access-log"]
    if not own:
        return [group.spec(it, options=options) for it in SERVICES]
    return [
        group.spec(_ORCHESTRATOR, options=options),
        *own_processes.specs(own, group, options),
    ]


def _databases(
    own: Sequence[Own], folder: Path, environment: Mapping[str, str]
) -> Mapping[str, str]:
    """The address of each service's database: that of the environment, or a file in the folder."""
    from orchestrator.cli.services.own import database_of

    return {
        name: environment.get(it.database_variable) or f"sqlite:///{folder / name}.sqlite"
        for name, it in SERVICES.items()
        if not own or name == _ORCHESTRATOR
    } | {it.name: database_of(it, folder, environment) for it in own}


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


def _own_greeting(group: Blog) -> Iterable[str]:
    """Where everything is."""
    yield "everything runs; Ctrl-C stops it"
    for name in group.ports:
        yield f"  {name:12}  {group.url(name)}"
    yield f"  the console   {group.url(_ORCHESTRATOR)}/console"
    yield f"in another terminal: export SAGABOX_URL_ORCHESTRATOR={group.url(_ORCHESTRATOR)}"


async def _supervise(supervisor: Supervisor, tell: Printer) -> None:
    import asyncio

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
    import fcntl

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


def _sources(own: Sequence[Own]) -> Sequence[Path]:
    """The folders of the code that the services run."""
    from orchestrator import bundled

    installed = Path(bundled.__file__).parents[1]
    theirs = [Path.cwd()] if own else [bundled.directory() / it for it in SERVICES]
    return [installed / "outbox", installed / "orchestrator", *theirs]
