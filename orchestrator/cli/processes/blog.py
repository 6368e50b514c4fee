"""The blog's services as child processes: the command, environment and address of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import bundled
from orchestrator.cli.processes.child import Spec
from orchestrator.cli.processes.services import SERVICES
from outbox.transports.http.peer_lists import parts_in

_ORCHESTRATOR = "orchestrator"
_GRPC_PORT = "SAGABOX_GRPC_PORT"
_BROKER = "SAGABOX_BROKER"
_PEOPLE = "SAGABOX_PUBLIC_URL_ORCHESTRATOR"
# -P: a user's own folder `orchestrator` in the working directory must not come first.
SAGABOX = (sys.executable, "-P", "-m", "orchestrator.cli")
"""The command `sagabox`, as a child process."""


def ports_from(first: int) -> Mapping[str, int]:
    """The usual ports of a set: the orchestrator at the first one, the services behind it."""
    return {_ORCHESTRATOR: first, **{it.name: first + it.offset for it in SERVICES.values()}}


@dataclass(frozen=True)
class Blog:
    """One set of services that know each other.

    `databases` holds an address and `ports` a port of 127.0.0.1 for each service. Their logs go
    into the folder `logs`, as NAME.log. `base` is the environment that theirs is made from. Without
    `has_bundle` the blog's own packages are not put before a user's.
    """

    databases: Mapping[str, str]
    ports: Mapping[str, int]
    secret: str
    logs: Path
    base: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    has_bundle: bool = True
    grpc_ports: Mapping[str, int] = field(default_factory=dict)
    """Where each service listens for gRPC, by which they then send to each other."""
    broker: str | None = None
    """The broker through which they send to each other instead."""

    def spec(
        self, name: str, *, extra: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> Spec:
        """How to start one service. `extra` is added to its environment, `options` to its command.

        Raises KeyError for an unknown service, BundleMissing where the installation is incomplete.
        """
        service = SERVICES[name]
        return Spec(
            name=name,
            command=(*SAGABOX, "serve", name, "--port", str(self.ports[name]), *options),
            environment={**self.environment(name, service.database_variable), **(extra or {})},
            url=self.url(name),
            log=self.logs / f"{name}.log",
        )

    def url(self, name: str) -> str:
        """Where the service listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def environment(self, name: str, database_variable: str) -> Mapping[str, str]:
        """The environment of the process of that service."""
        inherited = self._inherited()
        return {
            **(bundled.child_environment(inherited) if self.has_bundle else inherited),
            "SAGABOX_PEERS": ",".join([*self._others("SAGABOX_PEERS"), *self._peers(name)]),
            "SAGABOX_PARTICIPANTS": ",".join(self._others("SAGABOX_PARTICIPANTS")),
            "SAGABOX_SECRETS": self.secret,
            # They listen at loopback alone, for the user who started them.
            "SAGABOX_TRUST_LOOPBACK": "1",
            database_variable: self.databases[name],
            **self._way(name),
            # The terminal shows a service's output at once.
            "PYTHONUNBUFFERED": "1",
        }

    def _inherited(self) -> Mapping[str, str]:
        """The user's environment, without addresses of this set's services elsewhere."""
        aliases = {f"SAGABOX_URL_{it.upper()}" for it in self.ports}
        aliases |= {_GRPC_PORT, _BROKER, _PEOPLE}
        return {name: it for name, it in self.base.items() if name not in aliases}

    def _peers(self, name: str) -> Sequence[str]:
        """The other services of this set, at their ports."""
        return [f"{it}={self.way_to(it)}" for it in self.ports if it != name]

    def way_to(self, name: str) -> str:
        """Where the service takes messages."""
        if self.broker is not None:
            return self.broker
        port = self.grpc_ports.get(name)
        return self.url(name) if port is None else f"grpc://127.0.0.1:{port}"

    def _way(self, name: str) -> Mapping[str, str]:
        if self.broker is not None:
            return {_BROKER: self.broker, _PEOPLE: self.url(_ORCHESTRATOR)}
        if name not in self.grpc_ports:
            return {}
        return {_GRPC_PORT: str(self.grpc_ports[name]), _PEOPLE: self.url(_ORCHESTRATOR)}

    def _others(self, variable: str) -> Sequence[str]:
        """The services beyond this set that the user names by this variable."""
        given = parts_in(self.base.get(variable, ""))
        return [it for it in given if it.partition("=")[0].strip() not in self.ports]
