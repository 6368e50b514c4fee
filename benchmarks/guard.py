"""The guard: ratios that are far worse than those recorded. Pure.

Only ratios of one run are compared, as other values tell more of the machine than of the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.figures import Figures
from benchmarks.goals import GOALS, Goal

MARGIN = 0.6
"""A ratio may fall to this share of the recorded one, or rise by as much."""


def complaints(figures: Figures, recorded: Figures, goals: Sequence[Goal] = GOALS) -> Iterator[str]:
    """A sentence for each ratio that is far worse."""
    for goal in goals:
        if goal.against is None:
            continue
        now, then = goal.measured(figures), goal.measured(recorded)
        if now is None or then is None:
            continue
        is_worse = now < then * MARGIN if goal.at_least else now > then / MARGIN
        if is_worse:
            yield f"{goal.title}: {now:.3g} x, and {then:.3g} x was recorded"
