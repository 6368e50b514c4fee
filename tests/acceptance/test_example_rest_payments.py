"""`examples/rest_payments` as a person runs it: it does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.processes.guardian import guardian

_DEADLINE = 240.0  # seconds; a machine that has nothing else to do needs ten
_OUTPUT = """\
o-1: COMPLETED
  charge card: DONE
  book parcel: DONE
o-2: COMPENSATED
  charge card: UNDONE
  book parcel: REFUSED refused: http-422: a parcel has at most 30 kilos
o-3: COMPLETED
  charge card: DONE
  book parcel: DONE
2 charges are left
"""


@pytest.mark.timeout(300)
def test_a_sale_across_plain_http_services_is_paid_once_or_not_at_all(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "examples" / "rest_payments" / "run.py")],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    guardian().entrust_process(process.pid, signal.SIGTERM)
    try:
        output, errors = process.communicate(timeout=_DEADLINE)
    finally:
        guardian().release_process(process.pid)
    assert (process.returncode, output) == (0, _OUTPUT), errors
    assert list(tmp_path.iterdir()) == []
