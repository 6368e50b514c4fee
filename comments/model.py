"""Threads and comments: their tables, and their rules.

A thread has all that this service knows of an article, in independent columns: `known` is what
articles told, `closed_by` is the saga that holds the thread, `purged_at` is the end. Events and
commands may overtake each other, and each only writes its own columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, assert_never

from sqlalchemy import BigInteger, ColumnElement, Index, MetaData, String, Text, Uuid, and_
from sqlalchemy import Enum as EnumColumn
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from outbox.database.column_types import UtcDateTime
from outbox.replies import Locked, Refused
from outbox.tables import NAMING_CONVENTION

SCHEMA_REVISION = "comments_0005"
"""The revision of the database that this code needs."""

MAX_AUTHOR = 100
MAX_CONTENT = 10_000

metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Base(DeclarativeBase):
    """The tables of this service, in `metadata`."""

    metadata = metadata


class Known(Enum):
    """The state of an article as articles told it."""

    UNKNOWN = "unknown"
    """No event has come yet."""
    PUBLISHED = "published"
    """It is there."""
    DELETED = "deleted"
    """It is gone for good."""


class ThreadStatus(Enum):
    """The public status of a thread."""

    UNKNOWN = "unknown"
    """Its article is unknown; the event may be on its way."""
    PUBLISHED = "published"
    """It takes comments."""
    DELETING = "deleting"
    """A saga holds it, and is deciding whether it stays."""
    DELETED = "deleted"
    """It is gone for good."""


class Thread(Base):
    """The comments of one article, as a whole.

    `version` and `title` are those of the newest event; `events` counts the events that were
    applied, `out_of_order` those whose version was not the next one. Rows are never deleted:
    an article that is gone stays known to be gone.
    """

    __tablename__ = "threads"

    article_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    known: Mapped[Known] = mapped_column(
        EnumColumn(
            Known,
            native_enum=False,
            length=10,
            values_callable=lambda known: [it.value for it in known],
        )
    )
    title: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger)
    events: Mapped[int] = mapped_column(BigInteger)
    out_of_order: Mapped[int] = mapped_column(BigInteger)
    closed_by: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    purged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @staticmethod
    def blank(article_id: str) -> Mapping[str, Any]:
        """The row of a thread whose article is unknown."""
        return {
            "article_id": article_id,
            "known": Known.UNKNOWN,
            "title": "",
            "version": 0,
            "events": 0,
            "out_of_order": 0,
        }

    @property
    def status(self) -> ThreadStatus:
        return status_of(self.known, self.closed_by, self.purged_at)

    @classmethod
    def is_open(cls) -> ColumnElement[bool]:
        """`status is PUBLISHED`, for the database to decide."""
        return and_(cls.known == Known.PUBLISHED, cls.closed_by.is_(None), cls.purged_at.is_(None))

    def heard(self, *, title: str, version: int) -> None:
        """Note the event that the article is there, at that version. It opens no closed thread, and
        brings back none that is gone."""
        self.events += 1
        if version != self.version + 1:
            self.out_of_order += 1
        if self.known is Known.DELETED:
            return
        self.known = Known.PUBLISHED
        if version > self.version:
            self.title, self.version = title, version

    def heard_of_deletion(self) -> None:
        """Note the event that the article is gone."""
        self.events += 1
        self.known = Known.DELETED
        self.title = ""

    def close(self, saga: str) -> Locked | Refused | None:
        """Take the thread for `saga`, also of an unknown article. None: `saga` holds it now."""
        if self.status is ThreadStatus.DELETED:
            return _already_deleted(self.article_id)
        if self.closed_by is not None and self.closed_by != saga:
            return Locked(self.closed_by)
        self.closed_by = saga
        return None

    def reopen(self, saga: str) -> Refused | None:
        """Give back what `close` took for `saga`; another saga's hold stays. None: it is done."""
        if self.status is ThreadStatus.DELETED:
            return _already_deleted(self.article_id)
        if self.closed_by == saga:
            self.closed_by = None
        return None

    def release(self, holder: str) -> None:
        """Give back what `close` took for `holder`, which has ended; also of a tombstone."""
        if self.closed_by == holder:
            self.closed_by = None

    def purge(self, saga: str, now: datetime) -> Locked | None:
        """Become a tombstone. None: it is one now, and its comments have to go."""
        if self.closed_by is not None and self.closed_by != saga:
            return Locked(self.closed_by)
        self.discard(now)
        return None

    def discard(self, now: datetime) -> None:
        """Become a tombstone, even if a saga holds the thread; its comments have to go."""
        if self.purged_at is None:
            self.purged_at = now
            self.title = ""


class Comment(Base):
    """One comment. `archived_by` is the saga that closed the thread, and hides the comment
    meanwhile.

    It has no foreign key to its thread: threads are never deleted, and the key's own lock would
    not keep a comment out of a thread that is being closed.
    """

    __tablename__ = "comments"

    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    article_id: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    author: Mapped[str] = mapped_column(String(MAX_AUTHOR))
    content: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    archived_by: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))


def status_of(known: Known, closed_by: str | None, purged_at: datetime | None) -> ThreadStatus:
    """The public status of a thread with these columns."""
    if purged_at is not None or known is Known.DELETED:
        return ThreadStatus.DELETED
    if closed_by is not None:
        return ThreadStatus.DELETING
    match known:
        case Known.UNKNOWN:
            return ThreadStatus.UNKNOWN
        case Known.PUBLISHED:
            return ThreadStatus.PUBLISHED
        case _:
            assert_never(known)


def _already_deleted(article_id: str) -> Refused:
    return Refused("already-deleted", f"the thread of article {article_id} has been deleted")


# A thread's comments are listed down the ids, archived and deleted as a whole.
Index(None, Comment.article_id, Comment.id)
