"""Delete an article together with its comments, or leave both exactly as they were."""

from __future__ import annotations

from dataclasses import dataclass, replace

from articles.contract import ArticleHidden, DeleteArticle, HideArticle, UnhideArticle
from comments.contract import CloseThread, PurgeThread, ReopenThread, ThreadClosed
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import compensatable, pivot, retriable


@dataclass(frozen=True)
class Deletion:
    """The article to delete, and what the saga learns about it on the way."""

    article_id: str
    title: str | None = None
    comments: int | None = None

    def note_hidden(self, article: ArticleHidden) -> Deletion:
        """Note the title of the hidden article."""
        return replace(self, title=article.title)

    def note_closed(self, thread: ThreadClosed) -> Deletion:
        """Note how many comments go with the article."""
        return replace(self, comments=thread.comments)


delete_article = Saga(
    name="delete-article",
    version=1,
    state=Deletion,
    key=lambda it: it.article_id,
    one_active=True,
    steps=[
        compensatable(
            "hide article",
            lambda it: HideArticle(it.article_id),
            on_reply=Deletion.note_hidden,
            compensation=lambda it: UnhideArticle(it.article_id),
        ),
        compensatable(
            "close thread",
            lambda it: CloseThread(it.article_id),
            on_reply=Deletion.note_closed,
            compensation=lambda it: ReopenThread(it.article_id),
        ),
        pivot("delete article", lambda it: DeleteArticle(it.article_id)),
        retriable("purge comments", lambda it: PurgeThread(it.article_id)),
    ],
)
