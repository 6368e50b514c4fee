"""Release an article and its thread from the hold that an ended saga left behind.

A saga that an operator ended leaves its locks in place, and no other saga ever takes them. The
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
    """The article to release, and the saga that holds it."""

    article_id: str
    holder: str


release_article = Saga(
    name="release-article",
    version=1,
    state=Release,
    key=lambda it: it.article_id,
    one_active=True,
    steps=[
        # A deleted article is not released: its thread has to be purged.
        pivot("release article", lambda it: ReleaseArticle(it.article_id, it.holder)),
        retriable("release thread", lambda it: ReleaseThread(it.article_id, it.holder)),
    ],
)
