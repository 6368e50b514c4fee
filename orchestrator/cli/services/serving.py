"""The server in the process of a command: one application, until the process is told to stop."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from orchestrator.cli.processes.binding import require_free
from orchestrator.cli.terminal.log_format import LogFormat, LogLevel
from outbox.transports.grpc.listen import HOST, PORT

ROOT_PATH = "SAGABOX_ROOT_PATH"
"""The setting of the prefix below which a proxy serves the service."""

AccessLog = Annotated[bool, typer.Option("--access-log", help="Log each request.")]
LogFormatOption = Annotated[
    LogFormat, typer.Option(envvar="SAGABOX_LOG_FORMAT", help="How a line of the log looks.")
]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option(envvar="SAGABOX_LOG_LEVEL", help="debug adds each step and each message."),
]
RootPath = Annotated[
    str,
    typer.Option(
        envvar=ROOT_PATH,
        metavar="PREFIX",
        help="The prefix below which a proxy serves it, such as /shop, whether the proxy takes it "
        "off the path or not.",
    ),
]

GrpcPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        envvar=PORT,
        metavar="N",
        help="Take messages over gRPC, too, at this port of the same host.",
    ),
]

_REQUESTS_END_WITHIN = 5
"""Seconds for the requests under way at the end. A delivery is answered within less than that, and
its handlers go on: they have a time of their own."""
_BELIEVED = "FORWARDED_ALLOW_IPS"
"""The proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. uvicorn's own variable, but
without its default: a connection from loopback does not tell who wrote them."""


@dataclass(frozen=True)
class Logging:
    """What is logged, and how it looks."""

    of_each_request: bool
    form: LogFormat
    level: LogLevel


def listen_for_grpc(host: str, port: int | None, command: str) -> None:
    """Let the service of this process listen there. Raises CommandError where the port is taken;
    `command` is then advised."""
    if port is not None:
        require_free(host, port, f"{command} --grpc-port N")
        os.environ[PORT] = str(port)
        os.environ[HOST] = host


def serve_until_told(
    make_app: Callable[[], Any],
    host: str,
    port: int,
    logging: Logging,
    called: Callable[[Any], str],
) -> None:
    """Serve until SIGTERM or SIGINT; then requests under way have so many seconds, and what the
    application does at its end comes after them.

    The application is made when the log is set up. `called` gives its name, under which its spans
    are sent where the environment names a collector. Raises OutboxError or typer.Exit where it
    cannot start.
    """
    from orchestrator.cli.terminal.log_format import configure_logging
    from outbox.chassis.span_export import exporting, require_extra

    configure_logging(logging.form, logging.level)
    require_extra()
    app = make_app()
    with exporting(called(app)):
        _serve(app, host, port, logging)


def _serve(app: Any, host: str, port: int, logging: Logging) -> None:
    import uvicorn

    from orchestrator.cli.processes.starting import Starting
    from outbox.chassis.http.bounded_http import BoundedHttp

    starting = Starting(app)
    config = uvicorn.Config(
        starting,
        host=host,
        port=port,
        loop="uvloop",
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=logging.of_each_request,
        timeout_graceful_shutdown=_REQUESTS_END_WITHIN,
        forwarded_allow_ips=os.environ.get(_BELIEVED, ""),
    )
    server = uvicorn.Server(config)
    # Before uvicorn listens to signals itself, they end it just the same. And when it has ended, it
    # sends itself the signal once more: the process ended as it was asked to, so that is no
    # failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    # What is loaded stays until the end. Each full look for garbage among it would hold up all
    # requests for a tenth of a second.
    gc.collect()
    gc.freeze()
    try:
        server.run()
    except SystemExit as end:
        # How the server ends where it could not start; it has logged why.
        raise starting.failure or typer.Exit(2) from end
    if starting.failure is not None:
        raise starting.failure
