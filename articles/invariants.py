"""The invariants between articles and the services that know of them, for the audit."""

from __future__ import annotations

from articles.model import Article
from outbox.invariants import Holds, Invariants, Keeps, Repair, Wrong

_RELEASE = Repair("release-article", id="article_id", trace="holder")

INVARIANTS = Invariants(
    "articles",
    keeps=[
        Keeps(
            "article",
            id=Article.id,
            gone=Article.deleted_at.is_not(None),
            version=Article.version,
        )
    ],
    rules=[
        Holds(
            "article",
            id=Article.id,
            saga=Article.hidden_by,
            wrong=Wrong(
                "hidden-article",
                "an article is hidden only while the saga that hid it lives",
                _RELEASE,
            ),
        ),
        Holds(
            "article",
            id=Article.id,
            saga=Article.deletion_saga,
            wrong=Wrong(
                "deletion-without-saga",
                "a deletion that was asked for lives, or is about to begin",
                _RELEASE,
            ),
        ),
    ],
)
"""Articles decides which articles there are."""
