"""The tests of relay, inbox and engine once more, on tables with other names than they say: see
`tests.support.databases.renamed`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT

_FOLDER = "tests/integration"
_SUITES = (
    *("relay/test_relay.py", "relay/test_relay_failures.py", "relay/test_dead_letters.py"),
    *("inbox/test_inbox_undo.py", "inbox/test_inbox_pending.py", "inbox/test_inbox_purge.py"),
    *("inbox/test_inbox_outside.py", "inbox/test_inbox_questions.py"),
    *(f"transports/brokers/held/test_{it}.py" for it in ("holding", "held_operators")),
)
_OF_ORCHESTRATOR = ("store", "engine/test_engine.py", "engine/test_engine_later_answers.py")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "names"), [("sqlite", "sagabox_@"), ("postgresql", "sagabox_@messaging")]
)
def test_the_suites_pass_on_tables_with_other_names(kind: str, names: str) -> None:
    suites = [f"{_FOLDER}/outbox/{it}" for it in _SUITES]
    suites += [f"{_FOLDER}/orchestrator/{it}" for it in _OF_ORCHESTRATOR]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.support.databases.renamed", "-q"),
            *("-n", "0", "-k", kind, *suites, "tests/contracts/test_transports.py"),
        ],
        cwd=ROOT,
        env={**os.environ, "SAGABOX_TEST_TABLES": names, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-1000:]
