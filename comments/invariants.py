"""The invariants between comments and their articles, for the audit."""

from __future__ import annotations

from sqlalchemy import and_

from comments.model import Comment, Known, Thread
from outbox.invariants import Holds, Invariants, Keeps, Mirrors, Missing, Refers, Repair, Wrong

_PURGE = Repair("purge-thread", id="article_id")
_RELEASE = Repair("release-article", id="article_id", trace="holder")
_RETELL = Repair("retell-article", id="article_id")

_not_gone = and_(Thread.known != Known.DELETED, Thread.purged_at.is_(None))

INVARIANTS = Invariants(
    "comments",
    keeps=[Keeps("thread", id=Thread.article_id)],
    rules=[
        Refers(
            "article",
            id=Comment.article_id,
            by=Comment.archived_by,
            only=Missing.GONE,
            wrong=Wrong(
                "comments-of-deleted-article",
                "a deleted article has no comments, also no archived ones",
                _PURGE,
            ),
        ),
        Refers(
            "article",
            id=Thread.article_id,
            by=Thread.closed_by,
            where=_not_gone,
            only=Missing.GONE,
            wrong=Wrong(
                "thread-of-deleted-article",
                "the thread of a deleted article takes no comments, ever",
                _PURGE,
            ),
        ),
        Mirrors(
            "article",
            id=Thread.article_id,
            where=Thread.known != Known.UNKNOWN,
            missing=Wrong("thread-missing", "comments knows every published article", _RETELL),
            fit=_not_gone,
            unfit=Wrong(
                "thread-not-open",
                "the thread of a published article takes comments",
                decide="the comments were purged, and no database has them: restore comments to "
                "the same moment as articles, or keep the article without a thread",
            ),
            version=Thread.version,
            behind=Wrong("thread-behind", "comments knows the version of the article", _RETELL),
        ),
        Holds(
            "article",
            id=Thread.article_id,
            saga=Thread.closed_by,
            wrong=Wrong(
                "closed-thread",
                "a thread is closed only while a saga that lives holds it",
                _RELEASE,
            ),
        ),
        Holds(
            "article",
            id=Comment.article_id,
            saga=Comment.archived_by,
            wrong=Wrong(
                "archived-comments",
                "comments are archived only while a saga that lives holds them",
                _RELEASE,
            ),
        ),
        Refers(
            "article",
            id=Comment.article_id,
            by=Comment.archived_by,
            only=Missing.UNKNOWN,
            wrong=Wrong(
                "comments-of-unknown-article",
                "every comment belongs to an article that articles knows",
                decide="articles has lost the article: publish it again from another copy, or "
                "delete its comments",
            ),
        ),
        Refers(
            "article",
            id=Thread.article_id,
            by=Thread.closed_by,
            where=Thread.known == Known.PUBLISHED,
            only=Missing.UNKNOWN,
            wrong=Wrong(
                "thread-of-unknown-article",
                "every published thread belongs to an article that articles knows",
                decide="articles has lost the article: publish it again from another copy, or "
                "delete its thread",
            ),
        ),
        Refers(
            "thread",
            id=Comment.article_id,
            by=Comment.archived_by,
            wrong=Wrong(
                "comments-without-thread",
                "every comment belongs to a thread",
                decide="the thread was deleted by hand: repair thread-missing first, or delete "
                "the comments",
            ),
        ),
    ],
)
"""Comments keeps nothing of an article that articles does not have, and knows each that it has."""
