"""The article: its table, and its rules.

A method either makes its change and returns the event or the answer; or it changes nothing and
gives the reason, by raising (to a person) or by returning (to a saga).
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Index, MetaData, String, Text, Uuid
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from articles.contract import (
    ArticleDeleted,
    ArticleEdited,
    ArticleHidden,
    ArticlePublished,
    ArticleReleased,
    ArticleRemoved,
    ArticleUnhidden,
)
from outbox.contract import StartSaga
from outbox.database.column_types import UtcDateTime
from outbox.replies import Locked, Refused
from outbox.tables import NAMING_CONVENTION

SCHEMA_REVISION = "articles_0005"
"""The revision of the database that this code needs."""

MAX_TITLE = 200
MAX_AUTHOR = 100
MAX_BODY = 100_000
MAX_REASON = 1_000

DELETION = "delete-article"
"""The name of the saga that deletes an article together with its comments."""


metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Base(DeclarativeBase):
    """The tables of this service, in `metadata`."""

    metadata = metadata


class ArticleStatus(Enum):
    """The public status of an article."""

    PUBLISHED = "published"
    """It can be read, edited and commented."""
    DELETING = "deleting"
    """It can be read; a saga is deciding whether it stays."""
    DELETED = "deleted"
    """It is gone for good; a tombstone remembers that it was."""


class NotPublished(Exception):
    """The article cannot be changed in its present status."""

    def __init__(self, status: ArticleStatus) -> None:
        super().__init__(status)
        self.status = status


class Article(Base):
    """One article, or the tombstone of one: `deleted_at` is set, and its texts are empty.

    `hidden_by` is the saga that closed it to changes. `deletion_saga` is the saga that a caller
    asked for and that has not ended; it may not have begun yet.
    """

    __tablename__ = "articles"

    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    title: Mapped[str] = mapped_column(String(MAX_TITLE))
    body: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(String(MAX_AUTHOR))
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    hidden_by: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    deletion_saga: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    legal_hold: Mapped[str | None] = mapped_column(Text)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @classmethod
    def write(cls, id: str, *, title: str, body: str, author: str, now: datetime) -> Article:
        """A new article, at version 1."""
        return cls(
            id=id,
            title=title,
            body=body,
            author=author,
            version=1,
            created_at=now,
            updated_at=now,
        )

    def columns(self) -> dict[str, Any]:
        """The values of its columns, by name."""
        return {column.name: getattr(self, column.name) for column in Article.__table__.columns}

    @property
    def status(self) -> ArticleStatus:
        return status_of(self.hidden_by, self.deletion_saga, self.deleted_at)

    def publish(self) -> ArticlePublished:
        """The event that the article is there."""
        return ArticlePublished(self.id, self.title, self.author, self.version)

    def edit(self, *, title: str, body: str, now: datetime) -> ArticleEdited:
        """Replace the text. Raises NotPublished."""
        if self.status is not ArticleStatus.PUBLISHED:
            raise NotPublished(self.status)
        self.title, self.body = title, body
        self.version += 1
        self.updated_at = now
        return ArticleEdited(self.id, self.title, self.version)

    def put_on_hold(self, reason: str) -> None:
        """Forbid its deletion, also one that is under way. Raises NotPublished for a tombstone."""
        if self.status is ArticleStatus.DELETED:
            raise NotPublished(self.status)
        self.legal_hold = reason

    def release_hold(self) -> None:
        """Allow its deletion again. Raises NotPublished for a tombstone."""
        if self.status is ArticleStatus.DELETED:
            raise NotPublished(self.status)
        self.legal_hold = None

    def ask_for_deletion(self, saga: str) -> StartSaga | None:
        """Have `saga` delete it; None where an earlier saga has not ended.

        Raises NotPublished for a tombstone. `deletion_saga` then names the saga.
        """
        if self.status is ArticleStatus.DELETED:
            raise NotPublished(self.status)
        if self.deletion_saga is not None:
            return None
        self.deletion_saga = saga
        return StartSaga(DELETION, {"article_id": self.id}, saga)

    def deletion_ended(self, saga: str, status: str) -> None:
        """Forget the saga that was asked for, unless it did delete the article."""
        if self.deletion_saga == saga and status != "COMPLETED":
            self.deletion_saga = None

    def retell(self) -> ArticlePublished | ArticleDeleted:
        """The event of the article's present state, once more."""
        return ArticleDeleted(self.id) if self.status is ArticleStatus.DELETED else self.publish()

    def hide(self, saga: str) -> ArticleHidden | Locked | Refused:
        """Take the article for `saga`."""
        if self.status is ArticleStatus.DELETED:
            return _already_deleted(self.id)
        if self.hidden_by is not None and self.hidden_by != saga:
            return Locked(self.hidden_by)
        self.hidden_by = saga
        return ArticleHidden(self.title, self.version)

    def unhide(self, saga: str) -> ArticleUnhidden | Refused:
        """Give back what `hide` took for this saga."""
        if self.status is ArticleStatus.DELETED:
            return _already_deleted(self.id)
        was_hidden = self.hidden_by == saga
        if was_hidden:
            self.hidden_by = None
        return ArticleUnhidden(was_hidden)

    def release(self, holder: str) -> ArticleReleased | Refused:
        """Give back what `holder`, which has ended, took or was asked to take."""
        if self.status is ArticleStatus.DELETED:
            return _already_deleted(self.id)
        was_held = holder in (self.hidden_by, self.deletion_saga)
        if self.hidden_by == holder:
            self.hidden_by = None
        if self.deletion_saga == holder:
            self.deletion_saga = None
        return ArticleReleased(was_held)

    def confirm_deletion(self) -> ArticleRemoved | Refused:
        """The answer that it is a tombstone; a refusal where it is none."""
        if self.deleted_at is None:
            return Refused("not-deleted", f"article {self.id} has not been deleted")
        return ArticleRemoved(self.deleted_at)

    def delete(self, saga: str, now: datetime) -> ArticleDeleted | Locked | Refused:
        """Become a tombstone, for good."""
        if self.status is ArticleStatus.DELETED:
            return _already_deleted(self.id)
        if self.hidden_by is None:
            return Refused("not-hidden", f"article {self.id} must be hidden before its deletion")
        if self.hidden_by != saga:
            return Locked(self.hidden_by)
        if self.legal_hold is not None:
            return Refused("legal-hold", f"article {self.id} is on legal hold: {self.legal_hold}")
        self.title = self.body = self.author = ""
        self.deleted_at = self.updated_at = now
        return ArticleDeleted(self.id)


def status_of(
    hidden_by: str | None, deletion_saga: str | None, deleted_at: datetime | None
) -> ArticleStatus:
    """The public status of an article with these columns."""
    if deleted_at is not None:
        return ArticleStatus.DELETED
    if hidden_by is not None or deletion_saga is not None:
        return ArticleStatus.DELETING
    return ArticleStatus.PUBLISHED


def _already_deleted(article_id: str) -> Refused:
    return Refused("already-deleted", f"article {article_id} has been deleted")


# Lists go down the ids, and pass no tombstones on their way.
_listed = Article.deleted_at.is_(None)
Index(None, Article.id, sqlite_where=_listed, postgresql_where=_listed)
Index(None, Article.author, Article.id, sqlite_where=_listed, postgresql_where=_listed)
_in_deletion = Article.deletion_saga.is_not(None)
Index(None, Article.deletion_saga, sqlite_where=_in_deletion, postgresql_where=_in_deletion)
