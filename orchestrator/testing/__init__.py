"""For the tests of one's own sagas: every way that a run can go, and one of them once more.

    def test_a_checkout_keeps_what_it_promises() -> None:
        explore(checkout, faults=Faults(crashes=1, losses=1)).check()

It needs no service, no database and no clock: see docs/testing.md.
"""

from __future__ import annotations

from orchestrator.testing.exploring.events import Crash, Event, What
from orchestrator.testing.exploring.exploration import (
    Covered,
    Exploration,
    PromiseBroken,
    Violation,
)
from orchestrator.testing.exploring.explorer import TooManyWorlds, explore, replay
from orchestrator.testing.exploring.faults import Faults
from orchestrator.testing.exploring.sampling import sample_input
from orchestrator.testing.exploring.view import Invariant, View

__all__ = [
    "Covered",
    "Crash",
    "Event",
    "Exploration",
    "explore",
    "Faults",
    "Invariant",
    "PromiseBroken",
    "replay",
    "sample_input",
    "TooManyWorlds",
    "View",
    "Violation",
    "What",
]
