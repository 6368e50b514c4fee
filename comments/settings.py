"""What the comments service is told from outside."""

from __future__ import annotations

from pydantic import Field

from outbox.chassis.settings import DatabaseUrl, PublicSettings


class CommentsSettings(PublicSettings):
    """Read from the environment by `outbox.chassis.settings.load`."""

    database_url: DatabaseUrl = Field(
        validation_alias="SAGABOX_DATABASE_URL_COMMENTS",
        repr=False,
        description="The database of comments: postgresql://user@host/name, or "
        "sqlite:////folder/file.sqlite",
    )
