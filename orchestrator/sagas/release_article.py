"""Take from an article the hold that a saga has left behind, and from its thread.

A saga that a person ended leaves its locks where they were, and no other saga ever takes them. The
audit starts this one after it has seen that the holder has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from articles.contract import ReleaseArticle
from comments.contract import ReleaseThread
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import pivot, retriable


@dataclass(frozen=True)
class Release:
    """What is to be released, and from which saga."""

    article_id: str
    holder: str


release_article = Saga(
    name="release-article",
    version=1,
    state=Release,
    key=lambda it: it.article_id,
    one_active=True,
    steps=[
        # A deleted article is no one's to release: its thread has to be purged.
        pivot("release article", lambda it: ReleaseArticle(it.article_id, it.holder)),
        retriable("release thread", lambda it: ReleaseThread(it.article_id, it.holder)),
    ],
)
