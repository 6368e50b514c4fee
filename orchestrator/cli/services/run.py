"""`sagabox run MODULE:NAME`: an `outbox.Service` of the caller's own, alone or in its
application."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.processes import lifeline
from orchestrator.cli.processes.binding import require_free
from orchestrator.cli.services.serving import (
    AccessLog,
    GrpcPort,
    LogFormatOption,
    Logging,
    LogLevelOption,
    RootPath,
    listen_for_grpc,
    serve_until_told,
)
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.log_format import LogFormat, LogLevel

if TYPE_CHECKING:
    from outbox.service.service import Service

_PORT = 8080


def run(
    service: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:NAME]",
            help="The outbox.Service, such as shop.stock:service; the name may be left out where "
            "the module has one service.",
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen. /metrics and the health of the service are open to all who "
            "reach it; messages must be signed, and /pending asks for SAGABOX_OPERATOR_TOKEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = _PORT,
    grpc_port: GrpcPort = None,
    root_path: RootPath = "",
    access_log: AccessLog = False,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run a service of your own until Ctrl-C: /messages, /livez, /readyz and /metrics, its relay
    and its purge. If its module attaches it to an application, that is served. The module is looked
    for in this folder, too."""
    lifeline.tie_to_parent()
    prefix = _prefix(root_path)
    require_free(host, port, f"sagabox run {service} --port N")
    listen_for_grpc(host, grpc_port, f"sagabox run {service}")

    @cache
    def found() -> Service[Any]:
        return find_service(service, by="sagabox run was given")

    def make_app() -> Any:
        from outbox.chassis.http.proxied import Prefixed
        from outbox.integrations.bare import bare

        return Prefixed(found().application or bare(found()), prefix)

    serve_until_told(
        make_app,
        host,
        port,
        Logging(access_log, log_format, log_level),
        called=lambda _: found().name,
    )


def _prefix(given: str) -> str:
    from outbox.chassis.settings import prefix_of_paths

    try:
        return prefix_of_paths(given)
    except ValueError as error:
        raise CommandError(
            "the service cannot be served below that prefix", str(error), "--root-path /shop"
        ) from None


def find_service(name: str, *, by: str) -> Service[Any]:
    """The service of that name, also in a module of this folder. `by` begins the sentence of an
    error. Raises InvalidSettings."""
    from orchestrator.discovery import one
    from outbox.service.service import Service

    sys.path.insert(0, os.getcwd())
    return one(name, by=by, kind=Service, example="shop.stock:service")
