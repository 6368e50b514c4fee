"""The command `sagabox`, as a person types it."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from migrations.cli import main as migrations_main
from orchestrator.cli import main
from orchestrator.cli.processes.binding import require_loopback
from orchestrator.cli.processes.blog import Blog, ports_from
from orchestrator.cli.processes.child import Child
from orchestrator.cli.processes.secrets import shared_secret
from orchestrator.cli.processes.services import SERVICES
from orchestrator.cli.terminal.errors import CommandError
from outbox.chassis.settings import documented
from outbox.transports.http.peers import peers_in
from outbox.transports.http.signing import Keyring
from tests.support.checkout import ROOT
from tests.support.databases.migrating import Told, explained
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port

SECRET = "test:" + base64.b64encode(b"a secret for tests, not for use!").decode()


def run(*arguments: str, **variables: str | None) -> Told:
    """`sagabox` within this process."""
    result = CliRunner().invoke(main, arguments, env=variables)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Told(result.exit_code, result.stdout, result.stderr)


def run_process(*arguments: str, **variables: str) -> Told:
    """`sagabox` in a process of its own."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("sagabox")), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Told(done.returncode, done.stdout, done.stderr)


def test_the_version_is_that_of_the_distribution() -> None:
    for words in ("version", "--version"):
        assert run(words).out == f"{version('sagabox')}\n"


@pytest.mark.parametrize("service", SERVICES)
def test_the_help_of_a_service_lists_each_of_its_settings_in_full(service: str) -> None:
    told = run("serve", service, "--help")
    assert told.code == 0
    settings = documented(SERVICES[service].settings_model())
    assert f"SAGABOX_DATABASE_URL_{service.upper()}" in {it.variable for it in settings}
    for setting in settings:
        line = re.search(rf"^  {setting.variable}  \((.*)\)$", told.out, re.MULTILINE)
        assert line is not None, f"{setting.variable} is not in {told.out}"
        if setting.default:
            assert line[1] == f"default: {setting.default}"
        assert " ".join(setting.meaning.split()) in " ".join(told.out.split())


def test_an_unknown_service_is_wrong_usage() -> None:
    told = run("serve", "authors")
    assert told.code == 2
    assert "authors" in told.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_an_address_that_others_could_reach_is_refused(host: str) -> None:
    told = run("serve", "articles", "--host", host)
    happened, _, next_step = explained(told)
    assert happened == f"{host} is refused as the address to listen at"
    assert "--host" in next_step


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_an_address_of_this_machine_alone_is_not_refused(host: str) -> None:
    require_loopback(host)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which a server listens; at the one before it none does."""
    before = free_port(in_a_row=2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", before + 1))
        listener.listen()
        yield before + 1


def test_a_port_that_is_taken_is_told(taken: int) -> None:
    happened, why, _ = explained(run("serve", "articles", "--port", str(taken)))
    assert happened == f"port {taken} of 127.0.0.1 cannot be used"
    assert why == "another program listens there"


def test_missing_settings_are_told_by_name() -> None:
    told = run_process("serve", "comments", "--port", str(free_port()))
    assert told.code == 2
    assert "SAGABOX_SECRETS: it is not set" in told.err
    assert "SAGABOX_DATABASE_URL_COMMENTS: it is not set" in told.err
    assert "Traceback" not in told.err


def test_the_orchestrator_finds_sagas_in_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    """Behind all else: the package `articles` is the blog's where that is what runs."""
    (tmp_path / "sagas_of_the_shop.py").write_text("an_order = 1\n", "utf-8")
    (tmp_path / "articles.py").write_text("raise RuntimeError('it is not the blog')\n", "utf-8")
    sagas = "orchestrator.sagas.delete_article:delete_article,sagas_of_the_shop:place_order"
    told = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "orchestrator.cli"),
            *("serve", "orchestrator", "--port", str(free_port())),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SAGABOX_SECRETS": SECRET,
            "SAGABOX_DATABASE_URL_ORCHESTRATOR": f"sqlite:///{tmp_path}/orchestrator.sqlite",
            "SAGABOX_SAGAS": sagas,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert told.returncode == 2
    assert "'sagas_of_the_shop' has no 'place_order'" in told.stderr


def test_a_service_without_a_database_says_the_command_that_mends_it_and_that_one_does(
    tmp_path: Path,
) -> None:
    variables = {
        "SAGABOX_SECRETS": SECRET,
        "SAGABOX_DATABASE_URL_COMMENTS": f"sqlite:///{tmp_path}/comments.sqlite",
        "SAGABOX_BLOG_OPEN": "1",
    }
    told = run_process("serve", "comments", "--port", str(free_port()), **variables)
    assert told.code == 2
    assert "Traceback" not in told.err
    command = re.search(r"next: .*: sagabox (.*)$", told.err, re.MULTILINE)
    assert command is not None, told.err
    mended = run_process(*command[1].split(), **variables)
    assert (mended.code, mended.out.splitlines()[-1]) == (0, "comments: at comments_0005")
    assert run_process("migrate", "check", "comments", **variables).code == 0


async def test_a_service_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/comments.sqlite"
    assert run_process("migrate", "upgrade", "comments", "--database", database).code == 0
    blog = Blog(
        databases={"comments": database},
        ports={"comments": free_port()},
        secret=SECRET,
        logs=tmp_path,
    )
    child = await Child.start(
        blog.spec("comments", options=["--log-format", "json", "--root-path", "/shop"])
    )
    guardian().entrust_process(child.pid)
    await child.ready()
    async with httpx.AsyncClient(base_url=child.spec.url, trust_env=False, timeout=30) as client:
        assert (await client.get("/shop/livez")).status_code == 200
    assert await child.stop() == 0
    log = child.spec.log.read_text()
    assert "Application shutdown complete" in log
    assert all(it.startswith("{") for it in log.splitlines()), log


def test_the_services_of_a_set_know_each_other_s_addresses(tmp_path: Path) -> None:
    databases = {it: f"sqlite:///{tmp_path}/{it}.sqlite" for it in SERVICES}
    base = {
        "PATH": "/bin",
        "SAGABOX_DATABASE_URL_ARTICLES": "postgresql://production/articles",
        "SAGABOX_URL_ORCHESTRATOR": "http://production:8000",
    }
    blog = Blog(databases, ports_from(9000), SECRET, tmp_path, base)
    environment = blog.spec("articles", extra={"SAGABOX_CRASH_AT": "here:1"}).environment
    assert peers_in(environment["SAGABOX_PEERS"]) == {
        "orchestrator": "http://127.0.0.1:9000",
        "comments": "http://127.0.0.1:9002",
    }
    assert "SAGABOX_URL_ORCHESTRATOR" not in environment
    assert environment["SAGABOX_DATABASE_URL_ARTICLES"] == databases["articles"]
    assert environment["SAGABOX_CRASH_AT"] == "here:1"
    assert environment["PATH"] == "/bin"


def test_migrate_is_the_same_program_as_the_module() -> None:
    assert run("migrate", "history") == _module("history")
    ours, theirs = run("migrate", "--help"), _module("--help")
    assert ours.out == theirs.out
    assert "sagabox migrate" in ours.out
    assert run("migrate", "nonsense").code == 2


def _module(*arguments: str) -> Told:
    result = CliRunner().invoke(migrations_main, arguments, prog_name="sagabox migrate")
    return Told(result.exit_code, result.stdout, result.stderr)


_ADVISED = ("serve", "dev", "migrate", "version", "demo", "check", "outbox", "doctor", "start")


def test_every_command_that_is_written_somewhere_exists() -> None:
    """Errors and help advise commands; none may be one that is not there."""
    written = re.compile(r"sagabox (?P<command>[a-z-]+)(?: (?P<sub>[a-z]+))?")
    folders = ("articles", "comments", "migrations", "orchestrator", "outbox")
    found = {
        (match["command"], match["sub"])
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for match in written.finditer(path.read_text("utf-8"))
        if match["command"] in _ADVISED
    }
    assert {it for it, _ in found} >= {"serve", "migrate", "dev"}
    for command, sub in found:
        told = run(command, *([sub] if sub and command == "migrate" else []), "--help")
        assert told.code == 0, f"sagabox {command} {sub or ''}: {told.err}"


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    old = os.umask(0)
    try:
        made = shared_secret(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert shared_secret(path) == made
    Keyring.from_text(made)  # raises where it is none
    assert shared_secret(tmp_path / "another") != made


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    shared_secret(path)
    path.chmod(0o640)
    with pytest.raises(CommandError, match=r"may be known to others.*640.*rm "):
        shared_secret(path)


def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    with pytest.raises(CommandError, match="holds no secret"):
        shared_secret(path)


def test_dev_refuses_a_port_that_is_taken_and_names_the_option(taken: int, tmp_path: Path) -> None:
    told = run("dev", "--port-base", str(taken - 1), "--folder", str(tmp_path / "data"))
    happened, _, next_step = explained(told)
    assert str(taken) in happened
    assert "sagabox dev --port-base N" in next_step


def test_dev_refuses_a_folder_that_it_cannot_make(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    happened, _, _ = explained(run("dev", "--folder", str(tmp_path / "file" / "data")))
    assert "cannot be used" in happened
