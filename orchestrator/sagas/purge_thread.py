"""Delete the rest of a deleted article's thread for good.

The deletion itself does so too. This saga is for comments that came back because their database was
restored to an earlier moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from articles.contract import ConfirmDeletion
from comments.contract import DiscardThread
from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import pivot, retriable


@dataclass(frozen=True)
class Purge:
    """The article whose thread is purged."""

    article_id: str


purge_thread = Saga(
    name="purge-thread",
    version=1,
    state=Purge,
    key=lambda it: it.article_id,
    one_active=True,
    steps=[
        # Only articles knows; if the article lives after all, nothing is touched.
        pivot("confirm the deletion", lambda it: ConfirmDeletion(it.article_id)),
        retriable("discard comments", lambda it: DiscardThread(it.article_id)),
    ],
)
