"""For the tests of one's own sagas: every way that a run can go, and one of them once more.

    def test_a_checkout_keeps_what_it_promises() -> None:
        explore(checkout, faults=Faults(crashes=1, losses=1)).check()

Or random histories of the whole engine, with everything that can go wrong:

    def test_a_checkout_ends_rightly_whatever_happens() -> None:
        simulate(checkout, seeds=range(200)).check()

Both need no service, no database and no clock: see docs/guide/testing.md. With one's own handlers,
on SQLite or PostgreSQL:

    def test_a_checkout_does_what_it_promises() -> None:
        check_saga(checkout, Order("7"), participants={"shop": handlers}, schema=Base.metadata)

See docs/guide/testing-handlers.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.lazy_names import names_of as _names_of

if TYPE_CHECKING:
    from orchestrator.testing.exploring.model.events import Crash, Event, What
    from orchestrator.testing.exploring.model.faults import Faults
    from orchestrator.testing.exploring.model.view import Invariant, View
    from orchestrator.testing.exploring.walk.exploration import (
        Covered,
        Exploration,
        PromiseBroken,
        Violation,
    )
    from orchestrator.testing.exploring.walk.explorer import TooManyWorlds, explore, replay
    from orchestrator.testing.exploring.walk.sampling import sample_input
    from orchestrator.testing.simulating.runner import Simulation, SimulationFailed, simulate
    from orchestrator.testing.worlds.check_saga import check_saga, check_saga_async
    from orchestrator.testing.worlds.checked import Checked, WayFailed
    from orchestrator.testing.worlds.course import NotAtRest
    from orchestrator.testing.worlds.crash_points import CrashPoints
    from orchestrator.testing.worlds.fixtures import AsyncSagaWorld, SagaWorld
    from orchestrator.testing.worlds.rest import rest_participant
    from orchestrator.testing.worlds.run import Run
    from orchestrator.testing.worlds.troubles import NotReached

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
    "rest_participant",
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
    "AsyncSagaWorld": "orchestrator.testing.worlds.fixtures",
    "check_saga": "orchestrator.testing.worlds.check_saga",
    "check_saga_async": "orchestrator.testing.worlds.check_saga",
    "Checked": "orchestrator.testing.worlds.checked",
    "Covered": "orchestrator.testing.exploring.walk.exploration",
    "Crash": "orchestrator.testing.exploring.model.events",
    "CrashPoints": "orchestrator.testing.worlds.crash_points",
    "Event": "orchestrator.testing.exploring.model.events",
    "Exploration": "orchestrator.testing.exploring.walk.exploration",
    "explore": "orchestrator.testing.exploring.walk.explorer",
    "Faults": "orchestrator.testing.exploring.model.faults",
    "Invariant": "orchestrator.testing.exploring.model.view",
    "NotAtRest": "orchestrator.testing.worlds.course",
    "NotReached": "orchestrator.testing.worlds.troubles",
    "PromiseBroken": "orchestrator.testing.exploring.walk.exploration",
    "replay": "orchestrator.testing.exploring.walk.explorer",
    "rest_participant": "orchestrator.testing.worlds.rest",
    "Run": "orchestrator.testing.worlds.run",
    "SagaWorld": "orchestrator.testing.worlds.fixtures",
    "sample_input": "orchestrator.testing.exploring.walk.sampling",
    "simulate": "orchestrator.testing.simulating.runner",
    "Simulation": "orchestrator.testing.simulating.runner",
    "SimulationFailed": "orchestrator.testing.simulating.runner",
    "TooManyWorlds": "orchestrator.testing.exploring.walk.explorer",
    "View": "orchestrator.testing.exploring.model.view",
    "Violation": "orchestrator.testing.exploring.walk.exploration",
    "WayFailed": "orchestrator.testing.worlds.checked",
    "What": "orchestrator.testing.exploring.model.events",
}
if not TYPE_CHECKING:
    # A type checker would take any name then.
    __getattr__ = _names_of(__name__, _HOMES)
