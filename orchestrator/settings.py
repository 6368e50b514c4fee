"""The settings of the orchestrator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from outbox.chassis.settings import DatabaseUrl, ServiceSettings
from outbox.transports.http.peers import peers_in


def _checked(text: str) -> str:
    peers_in(text)
    return text


class OrchestratorSettings(ServiceSettings):
    """Read from the environment by `outbox.chassis.settings.load`."""

    database_url: DatabaseUrl = Field(
        validation_alias="SAGABOX_DATABASE_URL_ORCHESTRATOR",
        repr=False,
        description="The database of the orchestrator: postgresql://user@host/name, or "
        "sqlite:////folder/file.sqlite",
    )
    sagas: str = Field(
        default="",
        description="The sagas to run, as module:attribute with commas between them, beside those "
        "that installed packages declare as entry points of the group sagabox.sagas",
    )
    participants: Annotated[str, AfterValidator(_checked)] = Field(
        default="",
        description="The services that answer the sagas' commands, as name=address with commas "
        "between them",
    )

    def participant_addresses(self) -> Mapping[str, str]:
        """The address of each participant, by its name."""
        return peers_in(self.participants)
