"""The settings of the comments service."""

from __future__ import annotations

from pydantic import Field

from outbox.chassis.settings import DatabaseUrl
from outbox.chassis.static_keys import PublicOpen, PublicToken, StaticKeySettings


class CommentsSettings(StaticKeySettings):
    """Read from the environment by `outbox.chassis.settings.load`."""

    public_token: PublicToken = Field(default=None, validation_alias="SAGABOX_BLOG_TOKEN")
    public_open: PublicOpen = Field(default=False, validation_alias="SAGABOX_BLOG_OPEN")
    database_url: DatabaseUrl = Field(
        validation_alias="SAGABOX_DATABASE_URL_COMMENTS",
        repr=False,
        description="The database of comments: postgresql://user@host/name, or "
        "sqlite:////folder/file.sqlite",
    )
