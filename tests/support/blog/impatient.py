"""The deletion of an article for tests of repair: it gives up soon, and its first two steps stand
side by side, so that each is undone for itself."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.sagas.delete_article import delete_article as patient
from outbox.retry import RetryPolicy

_SOON = RetryPolicy(first=0.1, factor=1, ceiling=0.1, jitter=0, attempts=2)
_SIDE_BY_SIDE = {"hide article", "close thread"}

delete_article = replace(
    patient,
    steps=[
        replace(step, retry=_SOON, after=() if step.name in _SIDE_BY_SIDE else step.after)
        for step in patient.steps
    ],
)
