"""The server in the process of a command: one application, until the process is told to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.log_format import LogFormat, LogLevel

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


def serve_until_told(
    make_app: Callable[[], Any],
    host: str,
    port: int,
    logging: Logging,
) -> None:
    """Serve until SIGTERM or SIGINT; then requests under way have so many seconds, and what the
    application does at its end comes after them.

    The application is made when the log is set up. Raises OutboxError or typer.Exit where it cannot
    start.
    """
    import uvicorn

    from orchestrator.cli.processes.starting import Starting
    from orchestrator.cli.terminal.log_format import configure_logging
    from outbox.chassis.http.bounded_http import BoundedHttp

    configure_logging(logging.form, logging.level)
    starting = Starting(make_app())
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
    try:
        server.run()
    except SystemExit as end:
        # How the server ends where it could not start; it has logged why.
        raise starting.failure or typer.Exit(2) from end
    if starting.failure is not None:
        raise starting.failure
