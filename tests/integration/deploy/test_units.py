"""The units for systemd and the Procfile: valid, closed, and all that they name is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.services.serving import _REQUESTS_END_WITHIN
from outbox.chassis.settings import ServiceSettings, documented
from outbox.inbox.limits import HANDLER_SECONDS
from tests.support.checkout import ROOT
from tests.support.images.told import require_command, unread
from tests.support.repository.manual import blocks, rows

_DEPLOY = ROOT / "deploy"
_UNITS = sorted((_DEPLOY / "systemd").iterdir())
_SERVING = [it for it in _UNITS if "migrate" not in it.name]
_PROGRAM = "/opt/sagabox/bin/sagabox"
_INSTANCES = {"sagabox-orchestrator@.service": "8000", "sagabox-migrate@.service": "articles"}
_EXPOSURE = 15  # of 100, as `systemd-analyze security` counts it; a unit without a line has 96
_KEPT_SECONDS = 5


def _settings(unit: Path) -> Mapping[str, Sequence[str]]:
    """The values of each name, with the instance and the folder of secrets filled in."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "[")):
            value = value.replace("%i", _INSTANCES.get(unit.name, "")).replace("%d", "/run/secrets")
            found.setdefault(name, []).append(value)
    return found


def _command(unit: Path) -> Sequence[str]:
    (line,) = _settings(unit)["ExecStart"]
    program, *words = shlex.split(line)
    assert program == _PROGRAM
    return words


def _variables(unit: Path) -> Mapping[str, str]:
    words = " ".join(_settings(unit)["Environment"]).split()
    return dict(it.split("=", 1) for it in words)


def _systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed; Debian has it in the package systemd")
    return found


def _analyzed(
    verb: str, unit: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """What systemd says of the unit, on a machine where the program is installed."""
    program = folder / "sagabox"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for each in _UNITS:
        (folder / each.name).write_text(each.read_text().replace(_PROGRAM, str(program)))
    name = unit.name.replace("@.", f"@{_INSTANCES.get(unit.name, '')}.")
    if name != unit.name:
        (folder / name).write_text((folder / unit.name).read_text())
    return subprocess.run(
        [_systemd_analyze(), verb, *options, str(folder / name)],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_there_is_a_unit_for_each_service_and_one_for_the_migrations() -> None:
    assert [it.name for it in _UNITS] == [
        "sagabox-articles.service",
        "sagabox-comments.service",
        "sagabox-migrate@.service",
        "sagabox-orchestrator@.service",
    ]


@pytest.mark.parametrize("unit", _UNITS, ids=lambda it: it.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    said = _analyzed("verify", unit, tmp_path, "--man=no", "--recursive-errors=no")
    assert said.stdout + said.stderr == ""
    assert said.returncode == 0


def test_systemd_finds_a_planted_fault(tmp_path: Path) -> None:
    planted = tmp_path / "planted" / "sagabox-articles.service"
    planted.parent.mkdir()
    text = (_DEPLOY / "systemd" / planted.name).read_text()
    planted.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=strictly"))
    ran = subprocess.run(
        [_systemd_analyze(), "verify", "--man=no", "--recursive-errors=no", str(planted)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Failed to parse" in ran.stderr
    assert "strictly" in ran.stderr


@pytest.mark.parametrize("unit", _UNITS, ids=lambda it: it.name)
def test_systemd_calls_the_unit_closed(unit: Path, tmp_path: Path) -> None:
    options = ("--offline=true", "--no-pager", f"--threshold={_EXPOSURE}")
    said = _analyzed("security", unit, tmp_path, *options)
    assert said.returncode == 0, said.stdout
    assert "Overall exposure level" in said.stdout


@pytest.mark.parametrize("unit", _UNITS, ids=lambda it: it.name)
def test_the_commands_are_ones_that_the_terminal_takes(unit: Path) -> None:
    require_command(_command(unit))


@pytest.mark.parametrize("unit", _SERVING, ids=lambda it: it.name)
def test_every_variable_of_a_service_is_read_by_it(unit: Path) -> None:
    assert unread(_command(unit), _variables(unit)) == set()


def test_the_migration_of_each_service_finds_its_variable_there() -> None:
    (unit,) = set(_UNITS) - set(_SERVING)
    wanted = {f"{it.database_variable}_FILE" for it in SERVICES.values()}
    assert set(_variables(unit)) == wanted


@pytest.mark.parametrize("unit", _UNITS, ids=lambda it: it.name)
def test_each_secret_is_one_that_systemd_hands_over(unit: Path) -> None:
    handed = {it.partition(":")[0] for it in _settings(unit)["LoadCredential"]}
    assert {it.removeprefix("/run/secrets/") for it in _variables(unit).values()} == handed


@pytest.mark.parametrize("unit", _SERVING, ids=lambda it: it.name)
def test_what_must_be_set_is_set_by_the_unit(unit: Path) -> None:
    model = SERVICES[_command(unit)[1]].settings_model()
    given = {it.removesuffix("_FILE") for it in _variables(unit)}
    assert {it.variable for it in documented(model) if it.default is None} <= given


@pytest.mark.parametrize("unit", _SERVING, ids=lambda it: it.name)
def test_a_stop_is_sigterm_and_waits_longer_than_the_slowest_one_may_take(unit: Path) -> None:
    settings = _settings(unit)
    assert settings["KillSignal"] == ["SIGTERM"]
    # With `control-group` children would hear it, too; with `process` they would stay.
    assert settings["KillMode"] == ["mixed"]
    drain = ServiceSettings.model_fields["drain_seconds"].default
    slowest = _REQUESTS_END_WITHIN + max(drain, HANDLER_SECONDS) + _KEPT_SECONDS
    assert float(settings["TimeoutStopSec"][0].removesuffix("s")) >= slowest


@pytest.mark.parametrize("unit", _SERVING, ids=lambda it: it.name)
def test_a_service_starts_again_for_ever_and_with_a_pause(unit: Path) -> None:
    # It ends with 0 when it is told to stop, by whomever, and with 2 while its database is away.
    settings = _settings(unit)
    assert settings["Restart"] == ["always"]
    assert float(settings["RestartSec"][0].removesuffix("s")) >= 1
    assert settings["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("unit", _SERVING, ids=lambda it: it.name)
def test_a_service_starts_after_the_migration_of_its_database(unit: Path) -> None:
    migration = f"sagabox-migrate@{_command(unit)[1]}.service"
    for name in ("Wants", "After"):
        assert migration in _settings(unit)[name][0].split()
    # Required, it would take the service down when it is run again.
    assert "Requires" not in _settings(unit)


# The Procfile


def _procfile() -> Mapping[str, str]:
    lines = (_DEPLOY / "Procfile").read_text().splitlines()
    return dict(it.split(": ", 1) for it in lines if it and not it.startswith("#"))


def _told(line: str, folder: Path, **variables: str) -> tuple[Sequence[str], str]:
    """The words that the line gives to `sagabox` when a shell runs it, and the address that it
    hands over."""
    (folder / "sagabox").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$SAGABOX_DATABASE_URL_ORCHESTRATOR" "$@"\n'
    )
    (folder / "sagabox").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", line],
        env={"PATH": path, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    address, *words = ran.stdout.splitlines()
    return words, address


def test_the_procfile_migrates_before_it_serves_at_the_port_of_the_platform(tmp_path: Path) -> None:
    lines = _procfile()
    assert list(lines) == ["release", "web"]
    database = "postgres://u:p@host:5432/name?sslmode=require"
    given = {"DATABASE_URL": database, "PORT": "31337"}
    migrate, address = _told(lines["release"], tmp_path, **given)
    assert migrate == ["migrate", "upgrade", "orchestrator"]
    assert address == database
    serve, address = _told(lines["web"], tmp_path, **given)
    assert address == database
    assert serve[serve.index("--port") + 1] == "31337"
    assert serve[serve.index("--host") + 1] == "0.0.0.0"
    for words in (migrate, serve):
        require_command(words)
    # The platform's signal goes to the shell, which has to be the process itself by then.
    assert " exec sagabox serve " in lines["web"]


def test_the_page_shows_the_procfile_as_it_is() -> None:
    shown = [it for it in blocks("docs/operate/paas.md", "procfile")]
    assert [dict(it.split(": ", 1) for it in block.splitlines()) for block in shown] == [
        _procfile()
    ]


def test_the_connections_on_the_page_are_those_that_processes_open() -> None:
    found = rows("docs/operate/paas.md", "connections")
    assert len(found) == 3
    overflow = ServiceSettings.model_fields["pool_overflow"].default
    for instances, pool, most in found:
        each = int(pool) + overflow + 1  # the wake-ups
        assert int(most) == 2 * int(instances) * each + 1  # the release phase


def test_the_page_names_every_unit() -> None:
    page = (ROOT / "docs" / "operate" / "paas.md").read_text()
    assert [it.name for it in _UNITS if f"`{it.name}`" not in page] == []
    named = re.findall(r"deploy/systemd/[\w@.*-]+", page)
    assert named
    assert all(list(ROOT.glob(it)) for it in named)
