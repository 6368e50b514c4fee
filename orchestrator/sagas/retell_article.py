"""Have articles publish an article's present state again, since comments lost an event."""

from __future__ import annotations

from dataclasses import dataclass

from articles.contract import RetellArticle
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import pivot


@dataclass(frozen=True)
class Retelling:
    """The article whose state is published again."""

    article_id: str


retell_article = Saga(
    name="retell-article",
    version=1,
    state=Retelling,
    key=lambda it: it.article_id,
    one_active=True,
    steps=[pivot("tell again", lambda it: RetellArticle(it.article_id))],
)
