"""Random histories in which runs that ended are archived and removed, before all copies have come:
of their starts, of their commands, of answers, and of what operators want."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.engine.commits.starts import Starts
from orchestrator.testing.simulating.runner import replay
from orchestrator.testing.virtual.chances import OF_REMOVAL, Fault

FAULTS = OF_REMOVAL | {Fault.COMMIT_LOST, Fault.CANCEL, Fault.ACCEPTED}
HISTORIES = 200
POINTS = {
    "retention: file noted, before it is written",
    "retention: file written, before its manifest",
    "retention: archived, before removal",
    "retention: removed, before commit",
    "retention: after commit",
}


def test_no_copy_of_a_start_begins_a_removed_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    refuse = Starts._refuse_forgotten

    def note(self: Starts, item: object) -> None:
        refused.append("start")
        refuse(self, item)  # type: ignore[arg-type]  # as it was given

    monkeypatch.setattr(Starts, "_refuse_forgotten", note)
    removed, died = Counter[str](), set[str]()
    for seed in range(HISTORIES):
        history = replay(seed=seed, faults=FAULTS)
        assert history.broken is None, f"seed {seed}: {history.broken}"
        for _, what, *about in history.trace:
            if what == "removes":
                removed[about[1]] += about[2]
            elif what == "dies at":
                died.add(about[0])
    assert removed["runs"] > HISTORIES / 20
    assert removed["tombstones"]
    assert refused, "a start came below the watermark"
    assert died >= POINTS
