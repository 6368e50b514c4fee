"""A user's own services under `sagabox dev`: their names, and the process of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.processes.blog import SAGABOX, Blog
from orchestrator.cli.processes.child import Spec
from orchestrator.cli.services.database_address import variable_of
from orchestrator.cli.services.run import find_service
from orchestrator.cli.terminal.errors import CommandError

ORCHESTRATOR = "orchestrator"
_ASYNCHRONOUS, _SYNCHRONOUS = "sqlite+aiosqlite:", "sqlite:"
_LOOK = """
import json, sys
from orchestrator.cli.services.own import tell_of
from outbox.errors import OutboxError
try:
    tell_of(sys.argv[1])
except OutboxError as error:
    print(json.dumps({"problem": error.problem, "next_step": error.next_step}))
"""


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

    Each is imported once in a process of its own, in the environment that it gets: so one that is
    wrong is told before any is started. Raises CommandError.
    """
    return [_spec(it, group, options) for it in services]


def database_of(own: Own, folder: Path, environment: Mapping[str, str]) -> str:
    """The address of its database: that of the environment, or a file in the folder."""
    return environment.get(variable_of(own.name)) or (
        f"{_ASYNCHRONOUS}///{folder / own.name}.sqlite"
    )


def tell_of(where: str) -> None:
    """Print what the service there is, as JSON: its name, and whether its engine is synchronous.
    Raises InvalidSettings."""
    from sqlalchemy import Engine

    service = find_service(where, by="sagabox dev was given")
    bound = service.sessions.kw["bind"]
    about = {"name": service.name, "is_synchronous": isinstance(bound, Engine)}
    sys.stdout.write(f"\n{json.dumps(about)}\n")


def _spec(own: Own, group: Blog, options: Sequence[str]) -> Spec:
    variable = variable_of(own.name)
    environment = dict(group.environment(own.name, variable))
    address = environment[variable]
    synchronous = {**environment, variable: address.replace(_ASYNCHRONOUS, _SYNCHRONOUS, 1)}
    try:
        about = _look(own, environment)
    except CommandError as error:
        # SQLite has a driver for each kind of engine, and it may be used while it is imported.
        try:
            about = _look(own, synchronous)
        except CommandError:
            raise error from None
    if about["name"] != own.name:
        raise CommandError(
            f"{own.where} is the service {about['name']}",
            f"by its module it was taken for {own.name}",
            f"sagabox dev {about['name']}={own.where}",
        )
    return Spec(
        name=own.name,
        command=(*SAGABOX, "run", own.where, "--port", str(group.ports[own.name]), *options),
        environment=synchronous if about["is_synchronous"] else environment,
        url=group.url(own.name),
        log=group.logs / f"{own.name}.log",
    )


def _look(own: Own, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the service is. Raises CommandError where it cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOOK, own.where],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        # The module may have printed something before.
        about: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        about = {"problem": done.stderr[-2000:] or f"it ended with {done.returncode}"}
    if "name" not in about:
        raise CommandError(
            f"{own.where} cannot be run", about["problem"], about.get("next_step") or "mend it"
        )
    return about
