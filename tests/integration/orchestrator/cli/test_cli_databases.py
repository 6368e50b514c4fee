"""The commands that open a database ask the function that gives its password, as services do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.cli.terminal.errors import ExitCode
from tests.support.checkout import ROOT
from tests.support.databases.guarded import guarded_server
from tests.support.databases.migrating import Told
from tests.support.databases.postgres import PostgresServer
from tests.support.processes.cli import sagabox
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port

pytestmark = pytest.mark.slow

_VAULT = """
def password():
    return "first"

def wrong():
    return "second"

class Refused(Exception):
    sqlstate = "28000"

def bare():
    raise Refused("the server is shy")
"""
SERVICES = ("articles", "comments", "orchestrator")


def variables(addresses: Mapping[str, str]) -> dict[str, str]:
    return {f"SAGABOX_DATABASE_URL_{name.upper()}": it for name, it in addresses.items()}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with guarded_server() as made:
        yield made


@pytest.fixture
def guarded(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment of an orchestrator whose password a module of the working directory gives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"vault_{os.path.basename(tmp_path)}"
    (tmp_path / f"{name}.py").write_text(_VAULT)
    url = f"postgresql://app@127.0.0.1:{server.port}/postgres"
    return {
        **variables(dict.fromkeys(SERVICES, url)),
        "SAGABOX_DATABASE_PASSWORD_FROM": f"{name}:password",
        "URL": url,
    }


def run(guarded: dict[str, str], *command: str) -> Told:
    return sagabox(*(guarded["URL"] if it == "URL" else it for it in command), **guarded)


def test_a_command_asks_the_function_for_the_password(guarded: dict[str, str]) -> None:
    told = run(guarded, "migrate", "upgrade", "orchestrator")
    assert told.code == 0, told
    told = run(guarded, "token", "list")
    assert told.code == 0, told
    told = run(guarded, "pending", "list", "orchestrator", "--database", "URL")
    assert (told.code, told.out) == (0, "nothing is pending\n"), told
    # It gets in, and finds none of the blog's tables.
    told = run(guarded, "audit")
    assert "has not the tables that the audit reads" in told.err, told
    told = run(guarded, "doctor")
    assert "ok       rights of orchestrator" in told.out, told


@pytest.mark.parametrize(
    "command",
    [
        ("migrate", "current", "orchestrator"),
        ("token", "list"),
        ("pending", "list", "orchestrator", "--database", "URL"),
        ("audit",),
    ],
    ids=lambda it: it[0],
)
def test_a_function_that_is_not_there_is_told_with_its_variable(
    guarded: dict[str, str], command: tuple[str, ...]
) -> None:
    told = run(guarded | {"SAGABOX_DATABASE_PASSWORD_FROM": "no.such:function"}, *command)
    assert told.code == 2
    assert "SAGABOX_DATABASE_PASSWORD_FROM" in told.err
    assert "no.such" in told.err


@pytest.mark.parametrize(
    ("function", "why"),
    [("wrong", "password authentication failed"), ("bare", "the server is shy")],
)
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("migrate", "current", "orchestrator"), 2),
        (("token", "list"), ExitCode.UNREACHABLE),
        (("pending", "list", "orchestrator", "--database", "URL"), ExitCode.UNREACHABLE),
        (("audit",), ExitCode.UNREACHABLE),
        (("doctor",), ExitCode.OTHERWISE),
    ],
    ids=lambda it: it[0] if isinstance(it, tuple) else "",
)
def test_a_login_that_the_server_refuses_is_told_and_no_traceback(
    guarded: dict[str, str], command: tuple[str, ...], code: int, function: str, why: str
) -> None:
    """Also where the driver's error comes bare, as with SQLAlchemy 2.0."""
    place = guarded["SAGABOX_DATABASE_PASSWORD_FROM"].replace(":password", f":{function}")
    told = run(guarded | {"SAGABOX_DATABASE_PASSWORD_FROM": place}, *command)
    assert told.code == code, told
    assert why in " ".join((told.out + told.err).split())


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_the_function_in_the_folder_that_it_is_started_in(
    guarded: dict[str, str], service: str
) -> None:
    told = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "orchestrator.cli"),
            *("serve", service, "--port", str(free_port())),
        ],
        env={
            **os.environ,
            **guarded,
            "PYTHONPATH": str(ROOT),
            "SAGABOX_SECRETS": SECRET,
            "SAGABOX_BLOG_OPEN": "1",
            "SAGABOX_TABLE_PREFIX": "not_there_",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert told.returncode == 2
    # It was let in, and went on to look for its tables.
    assert f"the database of {service} has no tables" in told.stderr
