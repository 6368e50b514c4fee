"""Random histories of the real engine, over virtual time, network and stores: every number is a
seed. `sagabox simulate` replays one."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import delete_article
from orchestrator.testing.simulating.runner import SimulationFailed, replay, simulate
from orchestrator.testing.simulating.shapes import SHAPES, made_up
from orchestrator.testing.virtual.chances import Fault
from tests.support.repository.quick import quick_first
from tests.support.repository.reporting import Count

pytestmark = pytest.mark.timeout(600)  # for a machine that has much else to do
ALL = 100_000
"""So many in a run of the tests; a long one goes on where they end."""
OF_THE_BLOG = 10_000
HISTORIES = max(2 * OF_THE_BLOG, int(os.environ.get("SAGABOX_HISTORIES") or ALL))
"""Fewer of them where the time is short."""
CHUNK = 2_000
OFTEN = set(Fault) - {Fault.SKIP}
"""What each chunk has; a stuck step that may be skipped is rare."""


@pytest.mark.parametrize("first", quick_first(range(0, OF_THE_BLOG, CHUNK)))
def test_under_any_faults_a_deletion_ends_with_every_effect_or_none(
    first: int, count: Count
) -> None:
    result = simulate(delete_article, seeds=range(first, first + CHUNK))
    result.check()
    count("random histories", result.histories)
    assert result.ends[Status.COMPLETED] > CHUNK / 2
    assert result.ends[Status.COMPENSATED] > CHUNK / 50
    assert set(result.faults) >= OFTEN


@pytest.mark.parametrize("first", quick_first(range(OF_THE_BLOG, HISTORIES, CHUNK)))
def test_under_any_faults_a_saga_of_any_shape_ends_with_every_effect_or_none(
    first: int, count: Count
) -> None:
    result = simulate(seeds=range(first, first + CHUNK))
    result.check()
    count("random histories", result.histories)
    assert result.twice == CHUNK / 100
    assert set(result.ends) == {Status.COMPLETED, Status.COMPENSATED, Status.TERMINATED}
    assert set(result.faults) >= OFTEN


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_for_as_long_as_one_likes(soak_minutes: float, count: Count) -> None:
    end = time.monotonic() + 60 * soak_minutes / 3
    first = ALL
    while time.monotonic() < end:
        result = simulate(seeds=range(first, first + CHUNK))
        result.check()
        count("random histories", result.histories)
        first += CHUNK


def test_the_same_seed_is_the_same_history_in_every_process() -> None:
    program = (
        "from orchestrator.testing.simulating.runner import replay\n"
        "for seed in range(60): print(replay(seed=seed).trace)\n"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            timeout=100,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1


def test_made_up_sagas_have_many_shapes() -> None:
    shapes = [made_up(number) for number in range(SHAPES)]
    kinds = {tuple(step.kind for step in saga.steps) for saga in shapes}
    graphs = {tuple(sorted(map(len, saga.dependencies.values()))) for saga in shapes}
    assert len(kinds) > 15
    assert len(graphs) > 30
    assert {saga.one_active for saga in shapes} == {True, False}


def test_a_failure_tells_the_fewest_faults_and_happens_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from orchestrator.testing.virtual import service
    from outbox.inbox import rows

    monkeypatch.setattr(
        service,
        "decide",
        lambda arrival, *more: rows.Run(),  # every copy runs its handler
    )
    result = simulate(delete_article, seeds=range(2_000))
    failure = result.failure
    assert failure is not None
    with pytest.raises(SimulationFailed, match=r"P2, P3: step '.*' took effect as AA"):
        result.check()
    assert len(failure.faults) == 1
    again = replay(delete_article, seed=failure.seed, only=failure.faults)
    assert tuple(again.trace) == failure.trace
    assert "faults: " in str(failure)
    assert replay(delete_article, seed=failure.seed, only=[]).broken is None
