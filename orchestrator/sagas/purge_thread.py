"""Delete what comments still has of an article that was deleted, for good.

The deletion itself does so. This is for comments that have come back: their database was restored
to a moment before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from articles.contract import ConfirmDeletion
from comments.contract import DiscardThread
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import pivot, retriable


@dataclass(frozen=True)
class Purge:
    """Whose thread is to be purged."""

    article_id: str


purge_thread = Saga(
    name="purge-thread",
    version=1,
    state=Purge,
    key=lambda it: it.article_id,
    one_active=True,
    steps=[
        # Articles alone knows; if the article lives after all, nothing is touched.
        pivot("confirm the deletion", lambda it: ConfirmDeletion(it.article_id)),
        retriable("discard comments", lambda it: DiscardThread(it.article_id)),
    ],
)
