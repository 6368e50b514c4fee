"""The settings of the orchestrator."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from orchestrator.errors import InvalidRetention
from orchestrator.rest_calls.base import PREFIX, Base
from orchestrator.retention.archive.archive import NONE, Archive, archive_at, check_archive
from orchestrator.retention.policy import Policy
from outbox.chassis.settings import DatabaseUrl, InvalidSettings, ServiceSettings
from outbox.errors import OutboxError, Unrouted
from outbox.messages import OWNER
from outbox.transports.http.peers import peers_in


def peers_among(text: str) -> tuple[str, dict[str, str]]:
    """The peers in the list of participants, as text; and the addresses of the plain HTTP services
    among them. Raises ValueError that names the part which is wrong."""
    peers, rest = [], {}
    for part in text.split(","):
        name, _, address = (it.strip() for it in part.partition("="))
        if not address.startswith(PREFIX):
            peers.append(part)
            continue
        if not OWNER.fullmatch(name) or name in rest:
            raise ValueError(f"{name!r} is no name of a participant, or has two addresses")
        try:
            Base.parse(address)
        except OutboxError as error:
            raise ValueError(f"the address of {name}: {error.problem}") from None
        rest[name] = address.rstrip("/")
    return ",".join(peers), rest


def _participants_checked(text: str) -> str:
    peers_in(peers_among(text)[0])
    return text


ParticipantList = Annotated[str, AfterValidator(_participants_checked)]
"""The addresses of participants, as "name=address,..."; those of plain HTTP services have a rest+
before them."""


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
    participants: ParticipantList = Field(
        default="",
        description="An alias: the services that answer the sagas' commands, as SAGABOX_PEERS has "
        "them; beside them plain HTTP services, which REST steps call, as "
        "name=rest+https://host/path",
    )

    stuck_to: str = Field(
        default="",
        description="The participants that are told by the event SagaStuck of each step that gets "
        "stuck, by their names with commas between them",
    )

    retention: str = Field(
        default="",
        description="How long what has ended is kept: on, one age such as 30d, or a list such as "
        "COMPLETED=7d,book-trip:COMPLETED=90d,history=3d,dead-letters=forever; "
        "docs/operate/retention.md has the words. Unless set, for ever. Set it once every process "
        "of the orchestrator has this version",
    )
    archive: str = Field(
        default="",
        description="Where what is removed is archived first: a folder by its absolute path, or "
        "s3://bucket/prefix. Unless set, it is removed for good; where others were archived "
        "before, only with the word none",
    )
    archive_format: Literal["jsonl", "parquet"] = Field(
        default="jsonl",
        description="The form of new files in the archive: jsonl, or parquet with the extra of "
        "that name",
    )

    @field_validator("retention")
    @classmethod
    def _retention_checked(cls, text: str) -> str:
        try:
            Policy.parse(text)
        except InvalidRetention as error:
            raise ValueError(f"{error.problem}; {error.next_step}") from None
        return text

    @field_validator("archive")
    @classmethod
    def _archive_checked(cls, text: str) -> str:
        try:
            check_archive(text)
        except InvalidRetention as error:
            raise ValueError(f"{error.problem}; {error.next_step}") from None
        return text

    @field_validator("peers", mode="before")
    @classmethod
    def _no_plain_service(cls, text: object) -> object:
        if isinstance(text, str) and (rest := peers_among(text)[1]):
            raise ValueError(
                f"{', '.join(rest)} has an address with {PREFIX}, and only the orchestrator calls "
                "plain HTTP services: name it in SAGABOX_PARTICIPANTS"
            )
        return text

    def retention_policy(self) -> Policy | None:
        """The policy of retention; None where everything is kept for ever."""
        return Policy.parse(self.retention)

    def removes_for_good(self) -> bool:
        """Whether what is old is to go without an archive, although others were archived."""
        return self.archive == NONE

    def opened_archive(self) -> Archive | None:
        """The archive, if there is one. Raises InvalidSettings where what it needs is not
        installed."""
        try:
            return archive_at(self.archive, self.archive_format)
        except InvalidRetention as error:
            raise InvalidSettings(error.problem, next_step=error.next_step) from error

    def peer_aliases(self) -> Mapping[str, Mapping[str, str]]:
        """As `ServiceSettings`."""
        return {self.variable("participants"): peers_in(peers_among(self.participants)[0])}

    def participant_addresses(self) -> Mapping[str, str]:
        """The address of each participant, by its name; those of plain HTTP services begin with
        rest+. Raises InvalidSettings where one has two."""
        peers, rest = self.peer_addresses(), peers_among(self.participants)[1]
        for name in rest:
            if name in peers:
                raise InvalidSettings(
                    f"{name} is a peer with the address {peers[name]}, and a plain HTTP service",
                    next_step="leave one of the two out",
                )
        return {**peers, **rest}

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


def unshared_secrets() -> str:
    """Secrets for an orchestrator whose peers are all within its process: no message is signed
    with them, and none is believed."""
    return "none:" + base64.b64encode(os.urandom(32)).decode("ascii")
