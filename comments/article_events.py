"""The events of articles, as far as comments reads them.

Articles owns their types and declares them in full. A reader declares for itself the fields that it
needs, and ignores the others, so that neither service imports the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from outbox.messages import Event


@dataclass(frozen=True)
class ArticlePublished(Event, type="articles.article-published.v1", key="article_id"):
    """There is a new article."""

    article_id: str
    title: str
    version: int


@dataclass(frozen=True)
class ArticleEdited(Event, type="articles.article-edited.v1", key="article_id"):
    """The article has a new text, and a version that is one more than before."""

    article_id: str
    title: str
    version: int


@dataclass(frozen=True)
class ArticleDeleted(Event, type="articles.article-deleted.v1", key="article_id"):
    """The article is gone for good."""

    article_id: str
