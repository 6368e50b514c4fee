"""What the orchestrator is told from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from outbox.adding.installation import destination
from outbox.chassis.settings import DatabaseUrl, ServiceSettings, http_url
from outbox.errors import OutboxError


def participants_in(text: str) -> Mapping[str, str]:
    """The addresses in "name=http://host:port,...", by name; none for an empty text. Raises
    ValueError that names the part which is wrong."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, is_given, url = (it.strip() for it in part.partition("="))
        if not is_given:
            raise ValueError(f"{part!r} is not name=address")
        try:
            name, url = destination(name), http_url(url)
        except OutboxError as error:
            raise ValueError(str(error)) from None
        except ValidationError:
            raise ValueError(f"{url!r}, the address of {name}, is no http or https URL") from None
        if name in found:
            raise ValueError(f"{name} has two addresses")
        found[name] = url
    return found


def _checked(text: str) -> str:
    participants_in(text)
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
        """Where each participant listens, by its name."""
        return participants_in(self.participants)
