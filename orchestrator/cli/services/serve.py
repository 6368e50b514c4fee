"""`sagabox serve SERVICE`: one service in this process, until it is told to stop."""

from __future__ import annotations

import os
import signal
import textwrap
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from orchestrator.cli.processes import lifeline
from orchestrator.cli.processes.binding import require_free, require_safe
from orchestrator.cli.processes.services import FIRST_PORT, SERVICES, Service
from orchestrator.cli.terminal.log_format import LogFormat, LogLevel

_BELIEVED = "FORWARDED_ALLOW_IPS"
"""The proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. uvicorn's own variable, but
without its default: a connection from loopback does not tell who wrote them."""
_REQUESTS_END_WITHIN = 2
"""Seconds for the requests under way at the end; the service's own drain comes after them."""

app = typer.Typer(
    no_args_is_help=True,
    help="Run one service until Ctrl-C. `sagabox serve SERVICE --help` lists its settings.",
)
_Host = Annotated[
    str, typer.Option(help="Where to listen. Beyond this machine only with credentials.")
]
_AccessLog = Annotated[bool, typer.Option("--access-log", help="Log each request.")]
_LogFormat = Annotated[
    LogFormat, typer.Option(envvar="SAGABOX_LOG_FORMAT", help="How a line of the log looks.")
]
_LogLevel = Annotated[
    LogLevel,
    typer.Option(envvar="SAGABOX_LOG_LEVEL", help="debug adds each step and each message."),
]
_IN, _WIDTH = " " * 6, 80


@dataclass(frozen=True)
class _Logging:
    """What is logged, and how it looks."""

    of_each_request: bool
    form: LogFormat
    level: LogLevel


class _WithSettings(TyperCommand):
    """A command that adds the service's settings to its help; they are looked up only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        _print_settings(SERVICES[str(self.name)])


def _print_settings(service: Service) -> None:
    from outbox.chassis.settings import documented

    typer.echo(" Settings, from the environment:\n")
    for setting in documented(service.settings_model()):
        default = "must be set" if setting.default is None else f"default: {setting.default}"
        typer.echo(f"  {setting.variable}  ({default.removesuffix(': ')})")
        typer.echo(
            textwrap.fill(setting.meaning, _WIDTH, initial_indent=_IN, subsequent_indent=_IN)
        )


def _register(service: Service) -> None:
    def serve(
        host: _Host = "127.0.0.1",
        port: Annotated[int, typer.Option(min=1, max=65535)] = FIRST_PORT + service.offset,
        access_log: _AccessLog = False,
        log_format: _LogFormat = LogFormat.TEXT,
        log_level: _LogLevel = LogLevel.INFO,
    ) -> None:
        run(service, host, port, _Logging(access_log, log_format, log_level))

    app.command(
        service.name, cls=_WithSettings, help=f"Run the {service.name} service until Ctrl-C."
    )(serve)


def run(service: Service, host: str, port: int, logging: _Logging) -> None:
    """Serve until SIGTERM or SIGINT. Raises CommandError or OutboxError where it cannot start."""
    lifeline.tie_to_parent()
    _require_safe(service, host)
    require_free(host, port, f"sagabox serve {service.name} --port N")
    service.require_access()

    import uvicorn

    from orchestrator.cli.processes.starting import Starting
    from orchestrator.cli.terminal.log_format import configure_logging
    from outbox.chassis.http.bounded_http import BoundedHttp

    configure_logging(logging.form, logging.level)
    starting = Starting(service.create_app())
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


def _require_safe(service: Service, host: str) -> None:
    from orchestrator.cli.services.tokens import any_token_works
    from outbox.chassis.static_keys import StaticKeySettings

    model = service.settings_model()
    if issubclass(model, StaticKeySettings):
        guards = model.guards()
        require_safe(
            host,
            has_credentials=lambda: any(map(os.environ.get, guards)),
            to_get_one=model.to_make_token(),
        )
    else:
        require_safe(
            host,
            has_credentials=any_token_works,
            to_get_one="sagabox token create NAME --role operator",
        )


for _service in SERVICES.values():
    _register(_service)
