"""The pytest plugin as a user has it: pytest runs in a project of theirs, and finds their bugs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.databases.postgres import PostgresServer

_EXAMPLE = ROOT / "examples" / "testing_a_saga"
_UNDO = "    grand.free += 1\n"
_TAKEN_BACK = "    session.execute(delete(Question).where(Question.part == part))\n"
_WHERE = """
from trips import Base, bank, book_trip, hotel


def test_where_it_is(saga_world):
    tell(saga_world)


def test_where_it_is_in_an_async_test(async_saga_world):
    tell(async_saga_world)


def tell(make):
    services = {"hotel": hotel, "bank": bank}
    world = make(book_trip, participants=services, schema=Base.metadata)
    with world.session("hotel") as hotels, world.session("bank") as cards:
        raise AssertionError([it.get_bind().dialect.name for it in (hotels, cards)])
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a saga, its handlers and their tests, and no configuration at all."""
    return Path(shutil.copytree(_EXAMPLE, tmp_path / "project"))


def run_pytest(project: Path, *arguments: str) -> tuple[int, str]:
    """How pytest ended there, and what it said."""
    # asyncio_mode and the like are settings of this repository, and of its plugins.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:xdist", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_example_passes(project: Path) -> None:
    code, said = run_pytest(project)
    assert code == 0, said
    assert "15 passed" in said


def test_a_project_has_its_worlds_on_its_postgresql_and_leaves_nothing_there(
    project: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "test_where.py").write_text(_WHERE)
    monkeypatch.setenv("TEST_DATABASE_URL", postgres_server.url(driver=None))
    code, said = run_pytest(project, "test_where.py", "test_on_postgresql.py")
    assert code == 1, said
    assert "2 failed, 1 passed" in said
    told = re.findall(r"^E +AssertionError: \['postgresql', 'postgresql'\]$", said, re.MULTILINE)
    assert len(told) == 2
    with postgres_server.connect() as connection:
        names = connection.execute("SELECT datname FROM pg_database").fetchall()
    assert [name for (name,) in names if "sagabox" in name] == []


def test_a_compensation_that_does_not_undo_is_found_by_a_test_of_fewer_than_20_lines(
    project: Path,
) -> None:
    test = (project / "test_every_way.py").read_text()
    lines = [line for line in test.splitlines() if line.strip() and not line.startswith('"')]
    assert len(lines) < 20, "with its imports, its rows and its invariant"
    source = project / "trips.py"
    assert source.read_text().count(_UNDO) == 1
    source.write_text(source.read_text().replace(_UNDO, ""))
    code, said = run_pytest(project, "test_every_way.py")
    assert code == 1, said
    assert "the run is COMPENSATED, and not everything is as it was before:" in said
    assert "hotel: table hotels, row name='Grand': free was 2, is 1" in said
    assert 'where that is meant: ignore=["hotels.free"]' in said
    assert "check_saga.py:" not in said, "the test's own line is told, and none of the library"
    assert "the way: step 'charge card' is refused" in said
    assert "  sent  'hold room'  hotel.give-room-back.v1" in said, "the history is told"


def test_a_refusal_that_takes_nothing_back_is_found(project: Path) -> None:
    source = project / "parts.py"
    assert source.read_text().count(_TAKEN_BACK) == 1
    source.write_text(source.read_text().replace(_TAKEN_BACK, ""))
    code, said = run_pytest(project, "test_later_answers.py")
    assert code == 1, said
    assert "the run is COMPENSATED, and not everything is as it was before:" in said
    assert "parts: table questions, row part='axle': was not there, is there" in said
    assert 'where that is meant: ignore=["questions"]' in said
    assert "the way: step 'accept' is completed with person_declines" in said


def test_a_function_that_gives_the_provider_a_key_of_its_own_is_found(project: Path) -> None:
    source = project / "tickets.py"
    text = source.read_text()
    assert text.count("charge(context.id)") == 1
    source.write_text(text.replace("charge(context.id)", "charge(str(len(provider.charges)))"))
    code, said = run_pytest(project, "test_calls.py", "-k", "printed")
    assert code == 1, said
    assert "the invariant does not hold: " in said


def test_the_plugin_is_registered_and_imports_nothing_before_a_fixture_is_used() -> None:
    (found,) = [it for it in entry_points(group="pytest11") if it.name == "sagabox"]
    code = (
        f"import sys, {found.module}; "
        "heavy = {'sqlalchemy', 'fastapi', 'pydantic', 'httpx', 'asyncio'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", f"import pytest; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
