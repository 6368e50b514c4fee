"""`examples/small` as a person runs it: one process, from nothing to a finished saga."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.processes.guardian import guardian

_DEADLINE = 240.0  # seconds; a machine that has nothing else to do needs six
_OUTPUT = """\
a lamp for 8000 cents: its saga is COMPLETED
a lamp for 3000 cents: its saga is COMPENSATED
9 of 10 lamps are left
"""

pytestmark = pytest.mark.timeout(300)


def test_the_shop_in_one_process_ships_what_is_paid_and_gives_back_what_is_not(
    tmp_path: Path,
) -> None:
    ours = {name: it for name, it in os.environ.items() if not name.startswith("SAGABOX_")}
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "examples" / "small" / "run.py")],
        cwd=tmp_path,
        env={**ours, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guardian().entrust_process(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=_DEADLINE)
    guardian().release_process(process.pid)
    assert (process.returncode, output) == (0, _OUTPUT), errors
    assert list(tmp_path.iterdir()) == []
