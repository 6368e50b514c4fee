"""The settings of the orchestrator."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic import Field

from outbox.chassis.settings import DatabaseUrl, InvalidSettings, PeerList, ServiceSettings
from outbox.errors import Unrouted
from outbox.messages import OWNER
from outbox.transports.http.peers import peers_in


class OrchestratorSettings(ServiceSettings):
    """Read from the environment by `outbox.chassis.settings.load`."""

    database_url: DatabaseUrl = Field(
        validation_alias="SAGABOX_DATABASE_URL_ORCHESTRATOR",
        repr=False,
        description="The database of the orchestrator: postgresql://user@host/name, or "
        "sqlite:////folder/file.sqlite",
    )
    name: str = Field(
        default="orchestrator",
        validation_alias="SAGABOX_ORCHESTRATOR",
        pattern=f"^{OWNER.pattern}$",
        description="The name by which services know this orchestrator, in small letters, digits "
        "and dashes. It is for ever, and each of several has another",
    )
    sagas: str = Field(
        default="",
        description="The sagas to run, as module:attribute with commas between them, beside those "
        "that installed packages declare as entry points of the group sagabox.sagas",
    )
    participants: PeerList = Field(
        default="",
        description="An alias: the services that answer the sagas' commands, as SAGABOX_PEERS has "
        "them",
    )

    stuck_to: str = Field(
        default="",
        description="The participants that are told by the event SagaStuck of each step that gets "
        "stuck, by their names with commas between them",
    )

    def peer_aliases(self) -> Mapping[str, Mapping[str, str]]:
        """As `ServiceSettings`."""
        return {self.variable("participants"): peers_in(self.participants)}

    def told_of_stuck(self, participants: Collection[str]) -> tuple[str, ...]:
        """The names in `stuck_to`. Raises InvalidSettings where one is not among these."""
        names = tuple(dict.fromkeys(filter(None, map(str.strip, self.stuck_to.split(",")))))
        for name in names:
            if name not in participants:
                no_peer = Unrouted.no_peer(name, "orchestrator", participants)
                raise InvalidSettings(
                    f"{self.variable('stuck_to')} names {name!r}, and {no_peer.problem}",
                    next_step=no_peer.next_step,
                )
        return names
