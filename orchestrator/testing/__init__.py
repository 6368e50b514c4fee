"""For the tests of one's own sagas: every way that a run can go, and one of them once more.

    def test_a_checkout_keeps_what_it_promises() -> None:
        explore(checkout, faults=Faults(crashes=1, losses=1)).check()

Or random histories of the whole engine, with everything that can go wrong:

    def test_a_checkout_ends_rightly_whatever_happens() -> None:
        simulate(checkout, seeds=range(200)).check()

Both need no service, no database and no clock: see docs/testing.md. With one's own handlers, on
SQLite:

    def test_a_checkout_does_what_it_promises() -> None:
        check_saga(checkout, Order("7"), participants={"shop": handlers}, schema=Base.metadata)

See docs/testing-handlers.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
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
    from orchestrator.testing.simulating.runner import Simulation, SimulationFailed, simulate
    from orchestrator.testing.trying.checking import (
        Checked,
        WayFailed,
        check_saga,
        check_saga_async,
    )
    from orchestrator.testing.trying.crash_points import CrashPoints
    from orchestrator.testing.trying.run import Run
    from orchestrator.testing.trying.troubles import NotReached
    from orchestrator.testing.trying.world import NotAtRest
    from orchestrator.testing.trying.worlds import AsyncSagaWorld, SagaWorld

__all__ = [
    "AsyncSagaWorld",
    "check_saga",
    "check_saga_async",
    "Checked",
    "Covered",
    "Crash",
    "CrashPoints",
    "Event",
    "Exploration",
    "explore",
    "Faults",
    "Invariant",
    "NotAtRest",
    "NotReached",
    "PromiseBroken",
    "replay",
    "Run",
    "SagaWorld",
    "sample_input",
    "simulate",
    "Simulation",
    "SimulationFailed",
    "TooManyWorlds",
    "View",
    "Violation",
    "WayFailed",
    "What",
]

_HOMES = {
    "AsyncSagaWorld": "orchestrator.testing.trying.worlds",
    "check_saga": "orchestrator.testing.trying.checking",
    "check_saga_async": "orchestrator.testing.trying.checking",
    "Checked": "orchestrator.testing.trying.checking",
    "Covered": "orchestrator.testing.exploring.exploration",
    "Crash": "orchestrator.testing.exploring.events",
    "CrashPoints": "orchestrator.testing.trying.crash_points",
    "Event": "orchestrator.testing.exploring.events",
    "Exploration": "orchestrator.testing.exploring.exploration",
    "explore": "orchestrator.testing.exploring.explorer",
    "Faults": "orchestrator.testing.exploring.faults",
    "Invariant": "orchestrator.testing.exploring.view",
    "NotAtRest": "orchestrator.testing.trying.world",
    "NotReached": "orchestrator.testing.trying.troubles",
    "PromiseBroken": "orchestrator.testing.exploring.exploration",
    "replay": "orchestrator.testing.exploring.explorer",
    "Run": "orchestrator.testing.trying.run",
    "SagaWorld": "orchestrator.testing.trying.worlds",
    "sample_input": "orchestrator.testing.exploring.sampling",
    "simulate": "orchestrator.testing.simulating.runner",
    "Simulation": "orchestrator.testing.simulating.runner",
    "SimulationFailed": "orchestrator.testing.simulating.runner",
    "TooManyWorlds": "orchestrator.testing.exploring.explorer",
    "View": "orchestrator.testing.exploring.view",
    "Violation": "orchestrator.testing.exploring.exploration",
    "WayFailed": "orchestrator.testing.trying.checking",
    "What": "orchestrator.testing.exploring.events",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
