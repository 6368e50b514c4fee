from __future__ import annotations

import copy
import pickle

import pytest

from orchestrator.errors import (
    ActiveAlready,
    IllegalSignal,
    InvalidSaga,
    KeyReused,
    OrchestratorError,
    Unavailable,
    UnknownRun,
)

ERRORS = [
    InvalidSaga("the problem", next_step="the next step"),
    IllegalSignal("the problem", status="RUNNING", allowed=("cancel", "pause")),
    UnknownRun("a run"),
    ActiveAlready("a saga", "a key", "a run"),
    KeyReused("a saga", "a run"),
    Unavailable("the problem", retry_after=3.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_a_process_pool(error: OrchestratorError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error) == f"{error.problem}; {error.next_step}"
        assert vars(twin) == vars(error)
