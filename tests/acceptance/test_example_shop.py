"""`examples/shop` as a person runs it: it does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import wait_until

_DEADLINE = 240.0  # seconds; a machine that has nothing else to do needs ten
_OUTPUT = """\
2 lamps: the order is shipped, its saga COMPLETED
  reserve stock: DONE
  charge card: DONE
  ship: DONE
3 lamps: the order is released, its saga COMPENSATED
  reserve stock: UNDONE
  charge card: REFUSED refused: limit-exceeded: the card does not bear 12000 cents
  ship: PENDING
8 of 10 lamps are left, and the card was charged 8000 cents
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = ROOT / "examples" / "shop" / "run.py"
    process = subprocess.Popen(
        [sys.executable, "-u", str(script)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # So that all that it starts is one group, which can be looked at when it has ended.
        start_new_session=True,
    )
    guardian().entrust_process(process.pid, signal.SIGTERM)
    yield process
    if _is_alive(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    guardian().release_process(process.pid)


def test_the_shop_ships_what_is_paid_and_takes_back_what_is_not(
    shop: subprocess.Popen[str], tmp_path: Path
) -> None:
    output, errors = shop.communicate(timeout=_DEADLINE)
    assert (shop.returncode, output) == (0, _OUTPUT), errors
    assert not _is_alive(shop.pid)
    assert list(tmp_path.iterdir()) == []


def test_a_shop_that_is_told_to_end_in_the_middle_leaves_nothing_either(
    shop: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert shop.stdout is not None
    assert shop.stdout.readline() == _OUTPUT.splitlines(keepends=True)[0]
    shop.terminate()
    shop.communicate(timeout=_DEADLINE)
    assert shop.returncode != 0
    wait_until(lambda: not _is_alive(shop.pid), 10, "its services have ended")
    assert list(tmp_path.iterdir()) == []


def _is_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
