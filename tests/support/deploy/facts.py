"""What the code has of that which manifests name: commands, settings, ports, routes and times."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import typer

from migrations.cli import main as migrations_main
from orchestrator.cli import main as sagabox_main
from orchestrator.cli.processes.services import FIRST_PORT, SERVICES
from orchestrator.cli.services import serving
from outbox.chassis.database_settings import DatabaseSettings
from outbox.chassis.endpoints import health
from outbox.chassis.settings import ServiceSettings, documented
from outbox.inbox.limits import HANDLER_SECONDS
from outbox.runtime import HANDLERS_HAVE
from outbox.transports.grpc.listen import PORT as GRPC_PORT
from tests.support.deploy.pods import Pod
from tests.support.repository.routes import table_of

_EXPANDED = re.compile(r"\$\((\w+)\)")

_sagabox = cache(lambda: typer.main.get_command(sagabox_main))
_migrations = cache(lambda: typer.main.get_command(migrations_main))


@cache
def problem_of_command(*words: str) -> str | None:
    """Why `sagabox` would not take this command line; None where it does."""
    if words[0] != "sagabox":
        return f"{words[0]} is no program of the image"
    try:
        _parse(_sagabox(), "sagabox", list(words[1:]))
    except Exception as error:  # the terminal's own, which has no name that every version knows
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        return str(told())
    return None


def _parse(command: Any, name: str, words: list[str]) -> None:
    # Reads options and arguments as a call does, and raises where they do not fit.
    with command.make_context(name, list(words)) as context:
        if isinstance(command, typer.core.TyperGroup):
            _, found, rest = command.resolve_command(context, words)
            assert found is not None
            _parse(found, str(found.name), rest)
        elif name == "migrate":
            _parse(_migrations(), name, context.args)


@cache
def variables_of(service: str) -> frozenset[str]:
    """The environment variables that `sagabox serve` reads for this service."""
    command = _sagabox()
    for name in ("serve", service):
        assert isinstance(command, typer.core.TyperGroup)
        command = command.commands[name]
    of_options = {str(it.envvar) for it in command.params if it.envvar}
    of_settings = {it.variable for it in documented(SERVICES[service].settings_model())}
    return frozenset({*of_options, *of_settings, serving._BELIEVED})


@cache
def variables_of_migrations(service: str) -> frozenset[str]:
    """Those that `sagabox migrate` reads."""
    own = {f"SAGABOX_{name.upper()}" for name in DatabaseSettings.model_fields}
    return frozenset({*own, SERVICES[service].database_variable})


def problems_of_environment(container: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    """Variables that no program reads, and those that are used before they have a value."""
    entries = [it["name"] for it in container["env"]]
    if len(set(entries)) != len(entries):
        yield "a variable stands twice"
    used = {name for it in container["env"] for name in _EXPANDED.findall(it.get("value", ""))}
    for entry in container["env"]:
        name = entry["name"]
        if name not in known | used:
            yield f"no program reads {name}"
        for needed in _EXPANDED.findall(entry.get("value", "")):
            if needed not in entries[: entries.index(name)]:
                yield f"{name} uses {needed}, which is not set before it"


def problems_of_probes(pod: Pod, service: str) -> Iterator[str]:
    """Probes of addresses that the service does not have, and ports at which it does not listen."""
    (container,) = pod.spec["containers"]
    port = FIRST_PORT + SERVICES[service].offset
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    words = container["command"]
    if words[words.index("--port") + 1] != str(port):
        yield f"the command does not listen at {port}"
    # gRPC has the port that the usual ones have in Compose and behind Envoy, if it is told one.
    told = [it["value"] for it in container["env"] if it["name"] == GRPC_PORT]
    if ports != {"http": port} | ({"grpc": port + 100} if told else {}):
        yield f"the container's ports are {ports}"
    if told not in ([], [str(port + 100)]):
        yield f"the ports for gRPC that it is told are {told}"
    wanted = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for name, path in wanted.items():
        asked = container[name]["httpGet"]
        if ("GET", asked["path"]) not in table_of(service):
            yield f"{name} asks for {asked['path']}, which {service} does not have"
        elif asked["path"] != path:
            yield f"{name} asks for {asked['path']}, and not for {path}"
        if asked["port"] not in ports:
            yield f"{name} asks at the port {asked['port']}, which has no such name"


def longest_check() -> float:
    """Seconds after which `/readyz` answers at the latest."""
    timeout: float = inspect.signature(health.router).parameters["timeout"].default
    return timeout


def longest_stop() -> float:
    """Seconds that a service may take from SIGTERM to its end, with the settings as they are by
    themselves."""
    drain: float = ServiceSettings.model_fields["drain_seconds"].default
    return serving._REQUESTS_END_WITHIN + max(drain, HANDLERS_HAVE, HANDLER_SECONDS)
