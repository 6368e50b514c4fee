"""`examples/travel` as a person runs it, and the histories of its services' databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.orchestrator.saga_writers import execute, rows
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import wait_until

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from travel import run

_DEADLINE = 240.0  # seconds; a machine that has nothing else to do needs ten
_OUTPUT = """\
a trip with card 5678: COMPENSATED
  reserve room: UNDONE
  reserve seat: UNDONE
  charge card: REFUSED refused: limit-exceeded: the account does not bear 21000 cents
  confirm room: PENDING
  confirm seat: PENDING
a trip with card 1234: COMPLETED
  reserve room: DONE
  reserve seat: DONE
  charge card: DONE
  confirm room: DONE
  confirm seat: DONE
a trip with card 1234: COMPENSATED
  reserve room: REFUSED refused: full: no double room is left
  reserve seat: UNDONE
  charge card: PENDING
  confirm room: PENDING
  confirm seat: PENDING
1 seat is reserved
21000 cents: asked 2 times, charged once, refunded 0 times
"""
_ROWS = {
    "hotel": ("rooms", "'double', 9000, 5, 1, 0, 0"),
    "flight": ("flights", "'SB7', 12000, 3, 0"),
    "payment": ("cards", "'1234', 'ada'"),
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def travel(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.travel.run"],
        cwd=ROOT,
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


def test_a_trip_is_booked_where_all_say_yes_and_turned_back_where_one_says_no(
    travel: subprocess.Popen[str], tmp_path: Path
) -> None:
    output, errors = travel.communicate(timeout=_DEADLINE)
    assert (travel.returncode, output) == (0, _OUTPUT), errors
    assert not _is_alive(travel.pid)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_told_to_end_in_the_middle_leaves_nothing_either(
    travel: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert travel.stdout is not None
    assert travel.stdout.readline() == _OUTPUT.splitlines(keepends=True)[0]
    travel.terminate()
    travel.communicate(timeout=_DEADLINE)
    assert travel.returncode != 0
    wait_until(lambda: not _is_alive(travel.pid), 10, "its services have ended")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def database_schema() -> str:
    return "empty"


@pytest.mark.parametrize("service", run.SERVICES)
def test_a_database_that_was_there_before_gets_the_librarys_tables_and_keeps_its_rows(
    service: str, database: Database
) -> None:
    url = database.sync_url if service == "hotel" else database.url
    environment = run.environment(
        dict.fromkeys(run.NAMES, 1),
        dict.fromkeys(run.NAMES, url),
    )
    table, row = _ROWS[service]
    alembic(service, environment, "upgrade", "0001")
    execute(database, f"INSERT INTO {table} VALUES ({row})")
    before = rows(database, f"SELECT * FROM {table}")
    alembic(service, environment, "upgrade", "head")
    assert rows(database, "SELECT count(*) FROM outbox") == [(0,)]
    # Its own next migration would add nothing, and drop nothing of the library's.
    assert "No new upgrade operations detected" in alembic(service, environment, "check")
    alembic(service, environment, "downgrade", "0001")
    assert rows(database, f"SELECT * FROM {table}") == before


def alembic(service: str, environment: Mapping[str, str], *command: str) -> str:
    """What it prints."""
    config = ROOT / "examples" / "travel" / service / "alembic.ini"
    ran = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(config), *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def _is_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
