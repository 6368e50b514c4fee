"""The settings of the articles service."""

from __future__ import annotations

from pydantic import Field

from outbox.chassis.settings import DatabaseUrl, HttpUrl
from outbox.chassis.static_keys import PublicOpen, PublicToken, StaticKeySettings


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
    url_comments: HttpUrl = Field(
        default="http://127.0.0.1:8002", description="Where the comments service listens"
    )
    url_orchestrator: HttpUrl = Field(
        default="http://127.0.0.1:8000",
        description="Where the orchestrator listens: for starts of sagas, and for people",
    )
