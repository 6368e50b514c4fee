"""A user's own services under `sagabox dev`: their names, and the process of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.processes.blog import SAGABOX, Blog
from orchestrator.cli.processes.child import Spec
from orchestrator.cli.services.database_address import variable_of
from orchestrator.cli.services.run import find_service
from orchestrator.cli.terminal.errors import CommandError

ORCHESTRATOR = "orchestrator"


@dataclass(frozen=True)
class Own:
    """A service of the user's: its name, and where it is (`MODULE[:NAME]`)."""

    name: str
    where: str


def own_services(arguments: Sequence[str]) -> list[Own]:
    """The services that the arguments name, each as `[NAME=]MODULE[:NAME]`: without its name it is
    taken for that of its module.

    Raises CommandError where two have one name, or one has the orchestrator's.
    """
    found: list[Own] = []
    for argument in arguments:
        name, given, where = argument.rpartition("=")
        own = Own(name if given else where.partition(":")[0].rpartition(".")[2], where)
        if own.name in (ORCHESTRATOR, *(it.name for it in found)):
            raise CommandError(
                f"{argument} cannot be run as {own.name}",
                "the orchestrator has that name"
                if own.name == ORCHESTRATOR
                else "another service has that name",
                f"sagabox dev NAME={where}",
            )
        found.append(own)
    return found


def specs(services: Sequence[Own], group: Blog, options: Sequence[str]) -> list[Spec]:
    """How to start each of them, within a group that has their ports and databases.

    Their modules are imported here once, in the environment that their processes get: so one that
    is wrong is told before any process starts. Raises CommandError and InvalidSettings.
    """
    return [_spec(it, group, options) for it in services]


def database_of(own: Own, folder: Path, environment: Mapping[str, str]) -> str:
    """The address of its database: that of the environment, or a file in the folder."""
    return environment.get(variable_of(own.name)) or (
        f"sqlite+aiosqlite:///{folder / own.name}.sqlite"
    )


def _spec(own: Own, group: Blog, options: Sequence[str]) -> Spec:
    variable = variable_of(own.name)
    environment = dict(group.environment(own.name, variable))
    if _is_synchronous(own, environment):
        environment[variable] = environment[variable].replace("sqlite+aiosqlite:", "sqlite:", 1)
    return Spec(
        name=own.name,
        command=(*SAGABOX, "run", own.where, "--port", str(group.ports[own.name]), *options),
        environment=environment,
        url=group.url(own.name),
        log=group.logs / f"{own.name}.log",
    )


def _is_synchronous(own: Own, environment: Mapping[str, str]) -> bool:
    """Whether the service has a synchronous engine, for which SQLite has another driver. Raises
    CommandError where it has another name."""
    from sqlalchemy import Engine

    os.environ.update(environment)
    service = find_service(own.where, by="sagabox dev was given")
    if service.name != own.name:
        raise CommandError(
            f"{own.where} is the service {service.name}",
            f"by its module it was taken for {own.name}",
            f"sagabox dev {service.name}={own.where}",
        )
    return isinstance(service.sessions.kw["bind"], Engine)
