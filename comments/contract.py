"""The contract of comments: the commands that it carries out on the threads of articles.

The commands belong to a saga, whose id is their correlation; it owns the lock that closing takes,
and its id tags the comments that were archived for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from outbox.messages import Command


@dataclass(frozen=True)
class ThreadClosed:
    """The number of comments archived under the saga's tag."""

    comments: int


@dataclass(frozen=True)
class ThreadReopened:
    """The number of comments that came back."""

    comments: int


@dataclass(frozen=True)
class ThreadPurged:
    """The number of comments that were deleted for good."""

    comments: int


@dataclass(frozen=True)
class CloseThread(Command[ThreadClosed], type="comments.close-thread.v1", key="article_id"):
    """Take no more comments for the article, and archive those that are there.

    It also closes a thread whose article this service does not know yet. Locked while another saga
    holds it. Refused: already-deleted, invalid-article-id, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class ReopenThread(Command[ThreadReopened], type="comments.reopen-thread.v1", key="article_id"):
    """Give back exactly what CloseThread took for this saga; what another saga holds stays.

    Refused: already-deleted, invalid-article-id, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class PurgeThread(Command[ThreadPurged], type="comments.purge-thread.v1", key="article_id"):
    """Delete the comments of the article for good. The thread stays as a tombstone.

    Locked while another saga holds it. Refused: invalid-article-id, no-saga.
    """

    article_id: str


@dataclass(frozen=True)
class ReleaseThread(Command[ThreadReopened], type="comments.release-thread.v1", key="article_id"):
    """Give back exactly what the saga `holder` has taken; what another saga holds stays.

    For a holder that has ended and left its hold behind; comments cannot know that, so the sender
    must have made sure. Refused: invalid-article-id, invalid-holder, no-saga.
    """

    article_id: str
    holder: str


@dataclass(frozen=True)
class DiscardThread(Command[ThreadPurged], type="comments.discard-thread.v1", key="article_id"):
    """Delete the comments of an article that is gone for good, even if a saga holds the thread,
    since it cannot come back. The thread stays as a tombstone.

    The sender must have made sure that the article is gone. Refused: invalid-article-id, no-saga.
    """

    article_id: str
