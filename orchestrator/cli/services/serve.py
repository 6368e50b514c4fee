"""`sagabox serve SERVICE`: one service in this process, until it is told to stop."""

from __future__ import annotations

import os
import textwrap
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from orchestrator.cli.processes import bundle, lifeline
from orchestrator.cli.processes.binding import require_free, require_safe
from orchestrator.cli.processes.services import FIRST_PORT, SERVICES, Service
from orchestrator.cli.services.serving import (
    ROOT_PATH,
    AccessLog,
    GrpcPort,
    LogFormatOption,
    Logging,
    LogLevelOption,
    RootPath,
    listen_for_grpc,
    serve_until_told,
)
from orchestrator.cli.terminal.log_format import LogFormat, LogLevel

app = typer.Typer(
    no_args_is_help=True,
    help="Run one service until Ctrl-C. `sagabox serve SERVICE --help` lists its settings.",
)
_Host = Annotated[
    str, typer.Option(help="Where to listen. Beyond this machine only with credentials.")
]
_IN, _WIDTH = " " * 6, 80


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
        grpc_port: GrpcPort = None,
        root_path: RootPath = "",
        access_log: AccessLog = False,
        log_format: LogFormatOption = LogFormat.TEXT,
        log_level: LogLevelOption = LogLevel.INFO,
    ) -> None:
        if root_path:
            os.environ[ROOT_PATH] = root_path
        listen_for_grpc(host, grpc_port, f"sagabox serve {service.name}")
        run(service, host, port, Logging(access_log, log_format, log_level))

    app.command(
        service.name, cls=_WithSettings, help=f"Run the {service.name} service until Ctrl-C."
    )(serve)


def run(service: Service, host: str, port: int, logging: Logging) -> None:
    """Serve until SIGTERM or SIGINT. What the settings name may stand in modules of the working
    directory. Raises CommandError or OutboxError where it cannot start."""
    lifeline.tie_to_parent()
    bundle.put_folder_on_path()
    _require_safe(service, host)
    require_free(host, port, f"sagabox serve {service.name} --port N")
    service.require_access()
    serve_until_told(service.create_app, host, port, logging, called=_name_of)


def _name_of(app: Any) -> str:
    # An orchestrator has a name of its own, which a setting gives.
    name: str = app.state.chassis.service.name
    return name


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
