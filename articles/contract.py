"""The contract of articles: its events, and the commands that it carries out.

The commands belong to a saga, whose id is their correlation; it owns the lock that hiding takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from outbox.messages import Command, Event


@dataclass(frozen=True)
class ArticlePublished(Event, type="articles.article-published.v1", key="article_id"):
    """There is a new article. Its first `version` is 1."""

    article_id: str
    title: str
    author: str
    version: int


@dataclass(frozen=True)
class ArticleEdited(Event, type="articles.article-edited.v1", key="article_id"):
    """The article has a new text. `version` is one more than before."""

    article_id: str
    title: str
    version: int


@dataclass(frozen=True)
class ArticleDeleted(Event, type="articles.article-deleted.v1", key="article_id"):
    """The article is gone for good."""

    article_id: str


@dataclass(frozen=True)
class ArticleHidden:
    """The article is closed to changes; the fields are its content at that moment."""

    title: str
    version: int


@dataclass(frozen=True)
class ArticleUnhidden:
    """`was_hidden` tells whether the saga still held the article."""

    was_hidden: bool


@dataclass(frozen=True)
class ArticleRemoved:
    """The article became a tombstone at that time."""

    deleted_at: datetime


@dataclass(frozen=True)
class ArticleReleased:
    """`was_held` tells whether the saga in question still held the article."""

    was_held: bool


@dataclass(frozen=True)
class ArticleRetold:
    """The article's state that was told again: there, at that version, or deleted."""

    version: int
    is_deleted: bool


@dataclass(frozen=True)
class HideArticle(Command[ArticleHidden], type="articles.hide-article.v1", key="article_id"):
    """Close the article to changes, for this saga alone.

    Locked while another saga holds it. Refused: unknown-article, already-deleted, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class UnhideArticle(Command[ArticleUnhidden], type="articles.unhide-article.v1", key="article_id"):
    """Give back what HideArticle took; another saga's hold stays.

    Refused: unknown-article, already-deleted, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class DeleteArticle(Command[ArticleRemoved], type="articles.delete-article.v1", key="article_id"):
    """Delete the article for good. The saga must have hidden it.

    Locked while another saga holds it. Refused: legal-hold, not-hidden, unknown-article,
    already-deleted, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class ConfirmDeletion(
    Command[ArticleRemoved], type="articles.confirm-deletion.v1", key="article_id"
):
    """Say that the article has been deleted for good, and since when. It changes nothing.

    Refused: not-deleted, unknown-article, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class ReleaseArticle(
    Command[ArticleReleased], type="articles.release-article.v1", key="article_id"
):
    """Give back what the saga `holder` has taken, or was asked to take; another saga's hold stays.

    For a holder that has ended and left its hold behind; articles cannot know that, so the sender
    must have made sure. Refused: unknown-article, already-deleted, invalid-holder, no-saga.
    """

    article_id: str
    holder: str


@dataclass(frozen=True)
class RetellArticle(Command[ArticleRetold], type="articles.retell-article.v1", key="article_id"):
    """Publish the article's present state once more, for services that lost an event.

    Refused: unknown-article, no-saga.
    """

    article_id: str
