"""The settings of the articles service."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from outbox.chassis.settings import DatabaseUrl, InvalidSettings, PeerUrl
from outbox.chassis.static_keys import PublicOpen, PublicToken, StaticKeySettings
from outbox.transports.http.peers import parsed

_USUAL = {"comments": "http://127.0.0.1:8002", "orchestrator": "http://127.0.0.1:8000"}


class ArticlesSettings(StaticKeySettings):
    """Read from the environment by `outbox.chassis.settings.load`."""

    public_token: PublicToken = Field(default=None, validation_alias="SAGABOX_BLOG_TOKEN")
    public_open: PublicOpen = Field(default=False, validation_alias="SAGABOX_BLOG_OPEN")
    database_url: DatabaseUrl = Field(
        validation_alias="SAGABOX_DATABASE_URL_ARTICLES",
        repr=False,
        description="The database of articles: postgresql://user@host/name, or "
        "sqlite:////folder/file.sqlite",
    )
    url_comments: PeerUrl | None = Field(
        default=None,
        description="An alias: the address of comments, as SAGABOX_PEERS has it. Without both it "
        f"is {_USUAL['comments']}",
    )
    url_orchestrator: PeerUrl | None = Field(
        default=None,
        description="An alias: the address of the orchestrator, for starts of sagas and for "
        f"people, as SAGABOX_PEERS has it. Without both it is {_USUAL['orchestrator']}",
    )

    public_url_orchestrator: PeerUrl | None = Field(
        default=None,
        description="The address at which callers find the sagas, where messages to the "
        "orchestrator go over gRPC or a broker. Without it, the orchestrator's own",
    )

    def sagas_at(self) -> str:
        """The address at which callers find the sagas. Raises InvalidSettings where only the
        services' own way there is known."""
        if self.public_url_orchestrator:
            return self.public_url_orchestrator
        address = parsed(self.peer_addresses()["orchestrator"]).url
        if not address.startswith("http"):
            raise InvalidSettings(
                f"messages go to the orchestrator at {address}, which is no address for callers",
                next_step=f"set {self.variable('public_url_orchestrator')} to its http address",
            )
        return address

    def peer_aliases(self) -> Mapping[str, Mapping[str, str]]:
        """As `ServiceSettings`."""
        told = {"comments": self.url_comments, "orchestrator": self.url_orchestrator}
        return {self.variable(f"url_{name}"): {name: it} for name, it in told.items() if it}

    def peer_addresses(self) -> Mapping[str, str]:
        """As `ServiceSettings`; those that are not told are on this machine, at their usual
        ports."""
        return {**_USUAL, **super().peer_addresses()}
