"""What must hold between articles and comments while no saga is at work on an article.

Pure: takes what the databases say of one article, and gives what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What can be wrong. The value says what should be, and is not."""

    COMMENTS_OF_DELETED_ARTICLE = "a deleted article has no comments, also no archived ones"
    THREAD_OF_DELETED_ARTICLE = "the thread of a deleted article takes no comments, ever"
    THREAD_MISSING = "comments knows every published article"
    THREAD_BEHIND = "comments knows the version of the article"
    THREAD_NOT_OPEN = "the thread of a published article takes comments, and no saga holds it"
    ARCHIVED_COMMENTS = "comments are archived only while a saga that lives holds them"
    HIDDEN_ARTICLE = "an article is hidden only while the saga that hid it lives"
    DELETION_WITHOUT_SAGA = "a deletion that was asked for lives, or is about to begin"
    COMMENTS_OF_UNKNOWN_ARTICLE = "every comment belongs to an article that articles knows"
    THREAD_OF_UNKNOWN_ARTICLE = "every published thread belongs to an article that articles knows"
    COMMENTS_WITHOUT_THREAD = "every comment belongs to a thread"

    @property
    def code(self) -> str:
        """A short stable word for programs."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, order=True)
class Divergence:
    """One thing that is wrong with one article. Two are the same when all their values are.

    `saga_id` is the saga whose trace it is, if any; `detail` says more, and holds no number that
    grows while nothing is wrong.
    """

    article_id: str
    code: str
    saga_id: str | None = None
    detail: str = ""

    @property
    def kind(self) -> Kind:
        """What kind of thing."""
        return Kind[self.code.upper().replace("-", "_")]


@dataclass(frozen=True)
class Article:
    """What articles says. `version` counts the edits."""

    version: int
    hidden_by: str | None
    deletion_saga: str | None
    is_deleted: bool


@dataclass(frozen=True)
class Thread:
    """What comments says. `known` is what it heard of the article."""

    version: int
    known: str
    closed_by: str | None
    is_purged: bool

    @property
    def takes_comments(self) -> bool:
        """Whether it is open."""
        return self.known == "published" and self.closed_by is None and not self.is_purged

    @property
    def is_gone(self) -> bool:
        """Whether it can never be open again."""
        return self.known == "deleted" or self.is_purged


@dataclass(frozen=True)
class Facts:
    """What is known of one article. `comments` counts its comments by the saga that archived them;
    those that everybody sees stand under None."""

    article_id: str
    article: Article | None
    thread: Thread | None
    comments: Mapping[str | None, int] = field(default_factory=dict)

    @property
    def sagas(self) -> frozenset[str]:
        """All sagas that left a trace in it."""
        article = (self.article.hidden_by, self.article.deletion_saga) if self.article else ()
        thread = (self.thread.closed_by,) if self.thread else ()
        return frozenset(it for it in (*article, *thread, *self.comments) if it is not None)


def divergences(facts: Facts) -> Iterator[Divergence]:
    """What is wrong with this article, given that no saga is at work on it."""

    def found(kind: Kind, saga: str | None = None, detail: str = "") -> Divergence:
        return Divergence(facts.article_id, kind.code, saga, detail)

    if facts.comments and facts.thread is None:
        yield found(Kind.COMMENTS_WITHOUT_THREAD)
    if facts.article is None:
        yield from _of_unknown(facts)
    elif facts.article.is_deleted:
        if facts.comments:
            yield found(Kind.COMMENTS_OF_DELETED_ARTICLE)
        if facts.thread is not None and not facts.thread.is_gone:
            yield found(Kind.THREAD_OF_DELETED_ARTICLE, facts.thread.closed_by)
    else:
        yield from _of_living(facts, facts.article)


def _of_unknown(facts: Facts) -> Iterator[Divergence]:
    if facts.comments:
        yield Divergence(facts.article_id, Kind.COMMENTS_OF_UNKNOWN_ARTICLE.code)
    elif facts.thread is not None and facts.thread.known == "published":
        yield Divergence(facts.article_id, Kind.THREAD_OF_UNKNOWN_ARTICLE.code)


def _of_living(facts: Facts, article: Article) -> Iterator[Divergence]:
    def found(kind: Kind, saga: str | None = None, detail: str = "") -> Divergence:
        return Divergence(facts.article_id, kind.code, saga, detail)

    if article.hidden_by is not None:
        yield found(Kind.HIDDEN_ARTICLE, article.hidden_by)
    if article.deletion_saga is not None:
        yield found(Kind.DELETION_WITHOUT_SAGA, article.deletion_saga)
    for saga in sorted(it for it in facts.comments if it is not None):
        yield found(Kind.ARCHIVED_COMMENTS, saga)
    thread = facts.thread
    if thread is None or thread.known == "unknown":
        yield found(Kind.THREAD_MISSING)
    elif not thread.takes_comments:
        yield found(Kind.THREAD_NOT_OPEN, thread.closed_by)
    elif thread.version < article.version:
        yield found(Kind.THREAD_BEHIND, detail=f"version {article.version} has not arrived")
