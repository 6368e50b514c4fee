"""`sagabox token`, and what else of the terminal has to do with credentials."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shlex
import sys
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from articles.settings import ArticlesSettings
from orchestrator.cli.processes.binding import require_safe
from orchestrator.cli.processes.child import Child, Spec
from orchestrator.cli.services.own_database import VARIABLE
from orchestrator.cli.terminal.client import connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from outbox.chassis.access.routes import Role
from outbox.chassis.settings import InvalidSettings, load
from tests.support.blog.blog import SECRETS
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import address, explained, migrated
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import bearer, code_of
from tests.support.processes.cli import sagabox, told_error
from tests.support.processes.waiting import free_port
from tests.support.repository.routes import PAGE

pytestmark = pytest.mark.slow

_SERVE = import_module("orchestrator.cli.services.serve")


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("orchestrator")


def made(database: Database, *arguments: str) -> dict[str, Any]:
    """What `sagabox token create` says of a new token."""
    told = sagabox("token", "create", *arguments, "--json", **{VARIABLE: address(database)})
    assert told.code == 0, told
    created: dict[str, Any] = json.loads(told.out)
    return created


def listed(database: Database) -> dict[str, dict[str, Any]]:
    told = sagabox("token", "list", "--json", "--database", address(database))
    assert told.code == 0, told
    return {it["name"]: it for it in json.loads(told.out)["items"]}


def test_a_token_is_created_listed_and_revoked(database: Database) -> None:
    assert listed(database) == {}
    token = made(database, "ann", "--role", "operator")
    assert token["token"].startswith("sgb_")
    assert len(token["token"]) == 47
    made(database, "prometheus", "--role", "viewer", "--expires", "30")
    found = listed(database)
    assert (found["ann"]["role"], found["ann"]["status"]) == ("operator", "works")
    assert found["ann"]["expires_at"] is None
    assert found["prometheus"]["expires_at"].endswith("Z")
    assert token["token"][4:] not in json.dumps(found)
    told = sagabox("token", "revoke", "ann", **{VARIABLE: address(database)})
    assert (told.code, told.out) == (0, "ann opens nothing any more\n")
    assert listed(database)["ann"]["status"] == "revoked"
    again = sagabox("token", "create", "ann", "--role", "admin", **{VARIABLE: address(database)})
    assert explained_briefly(again.err) == "there is a token ann already, or there was one"


def explained_briefly(err: str) -> str:
    return err.splitlines()[0].removeprefix("error: ")


@pytest.mark.databases("sqlite")
def test_a_person_reads_the_token_once_and_how_to_use_it(database: Database) -> None:
    told = sagabox("token", "create", "ann", "--role", "viewer", **{VARIABLE: address(database)})
    assert "export SAGABOX_TOKEN=sgb_" in told.out
    assert "ann" in sagabox("token", "list", **{VARIABLE: address(database)}).out


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("days", ["0", "-1", "nan", "1e300"])
def test_a_token_that_would_have_ended_is_not_made(database: Database, days: str) -> None:
    told = sagabox(
        *("token", "create", "ann", "--role", "viewer", "--expires", days, "--json"),
        **{VARIABLE: address(database)},
    )
    assert told_error(told)["exit_code"] == ExitCode.REFUSED
    assert listed(database) == {}


@pytest.mark.databases("sqlite")
def test_there_are_three_roles_and_a_token_has_one(database: Database) -> None:
    for words in (["--role", "root"], []):
        told = sagabox("token", "create", "ann", *words, **{VARIABLE: address(database)})
        assert told.code == 2
    assert listed(database) == {}


def test_a_database_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    told = sagabox("token", "list", **{VARIABLE: None})
    assert explained(told)[2].startswith(f"export {VARIABLE}=")
    missing = sagabox("token", "list", "--database", f"sqlite:///{tmp_path}/none.sqlite", "--json")
    assert told_error(missing)["exit_code"] == ExitCode.UNREACHABLE
    assert not (tmp_path / "none.sqlite").exists()
    wrong = sagabox("token", "list", "--database", "mysql://x/y", "--json")
    assert told_error(wrong)["exit_code"] == ExitCode.REFUSED


@pytest.mark.databases("sqlite")
def test_a_database_without_the_table_is_told_with_the_command_that_makes_it(
    database_factory: DatabaseFactory,
) -> None:
    told = sagabox("token", "list", "--json", "--database", address(database_factory("empty")))
    assert "sagabox migrate upgrade orchestrator" in told_error(told)["next_step"]


def test_the_client_shows_the_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGABOX_TOKEN", " sgb_secret ")
    with connect(None) as api:
        assert api._client.headers["authorization"] == "Bearer sgb_secret"
    monkeypatch.setenv("SAGABOX_TOKEN", "sgb_\nx: y")
    with pytest.raises(CommandError, match="holds is no token"), connect(None):
        pass
    monkeypatch.delenv("SAGABOX_TOKEN")
    with connect(None) as api:
        assert "authorization" not in api._client.headers


def test_an_address_beyond_this_machine_needs_credentials() -> None:
    for host in ("0.0.0.0", "192.0.2.7", "::", "sagas.example"):
        require_safe(host, has_credentials=lambda: True, to_get_one="get one")
        with pytest.raises(CommandError) as caught:
            require_safe(host, has_credentials=lambda: False, to_get_one="get one")
        assert caught.value.next_step == "get one; or leave --host out"
    for host in ("127.0.0.1", "::1", "localhost"):
        require_safe(host, has_credentials=lambda: False, to_get_one="get one")
    with pytest.raises(CommandError):
        require_safe("", has_credentials=lambda: True, to_get_one="get one")


@pytest.mark.databases("sqlite")
def test_the_orchestrator_listens_elsewhere_only_with_a_token_that_works(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []

    def stop(host: str, *_: object) -> None:
        reached.append(host)
        raise CommandError("stopped", "the test", "go on")

    monkeypatch.setattr(_SERVE, "require_free", stop)
    variables = {VARIABLE: address(database)}

    def serve() -> str:
        told = sagabox("serve", "orchestrator", "--host", "0.0.0.0", **variables)
        return explained(told)[2]

    assert serve().startswith("sagabox token create NAME --role operator")
    made(database, "ann", "--role", "viewer")
    assert serve() == "go on"
    sagabox("token", "revoke", "ann", **variables)
    assert serve().startswith("sagabox token create")
    assert reached == ["0.0.0.0"]


@pytest.mark.parametrize("variable", ["SAGABOX_BLOG_TOKEN", "SAGABOX_METRICS_TOKEN"])
def test_the_blog_listens_elsewhere_only_with_a_token(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise CommandError("stopped", "the test", "go on")

    monkeypatch.setattr(_SERVE, "require_free", stop)
    for service in ("articles", "comments"):
        without = explained(sagabox("serve", service, "--host", "0.0.0.0"))
        assert without[2].startswith("export SAGABOX_BLOG_TOKEN=")
        with_one = sagabox("serve", service, "--host", "0.0.0.0", **{variable: "secret"})
        assert explained(with_one)[2] == "go on"
        opened = sagabox("serve", service, "--host", "0.0.0.0", SAGABOX_BLOG_OPEN="1")
        assert explained(opened)[2] == "go on"


@pytest.mark.parametrize("service", ["articles", "comments"])
def test_the_blog_starts_only_with_a_token_or_where_it_is_opened(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_app() -> None:
        raise CommandError("stopped", "the test", "go on")

    monkeypatch.setattr(importlib.import_module(f"{service}.app"), "create_app", create_app)
    usual = {
        "SAGABOX_SECRETS": SECRETS,
        f"SAGABOX_DATABASE_URL_{service.upper()}": "sqlite:////nowhere/x.sqlite",
    }

    def serve(**variables: str) -> str:
        told = sagabox("serve", service, "--port", str(free_port()), **usual, **variables)
        assert (told.code, told.out) == (2, "")
        return told.err

    for closed in ({}, {"SAGABOX_BLOG_OPEN": "0"}, {"SAGABOX_METRICS_TOKEN": "secret"}):
        told = serve(**closed)
        assert "SAGABOX_BLOG_TOKEN is not set" in told, closed
        assert "next: export SAGABOX_BLOG_TOKEN=" in told
        assert "SAGABOX_BLOG_OPEN=1" in told
    for variable in ("SAGABOX_BLOG_TOKEN", "SAGABOX_BLOG_OPEN", "SAGABOX_TRUST_LOOPBACK"):
        assert "go on" in serve(**{variable: "1"})
    told = serve(SAGABOX_BLOG_TOKEN="secret", SAGABOX_BLOG_OPEN="1")
    assert "only one of both can be meant" in told


def test_a_token_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    monkeypatch.setenv("SAGABOX_DATABASE_URL_ARTICLES", "sqlite:////nowhere/x.sqlite")
    monkeypatch.setenv("SAGABOX_BLOG_TOKEN", "two words")
    with pytest.raises(InvalidSettings, match="SAGABOX_BLOG_TOKEN"):
        load(ArticlesSettings)


@pytest.mark.databases("sqlite")
async def test_a_real_server_is_closed_to_all_but_tokens(
    database: Database, tmp_path: Path
) -> None:
    created = await asyncio.to_thread(made, database, "ann", "--role", Role.OPERATOR.value)
    token = created["token"]
    port = free_port()
    environment = {
        **os.environ,
        VARIABLE: database.url,
        "SAGABOX_SECRETS": SECRETS,
        "SAGABOX_ALLOWED_HOSTS": "sagas.example",
    }
    # Without `sagabox serve`: the application protects itself.
    command = (
        *(sys.executable, "-m", "uvicorn", "--factory", "orchestrator.app:create_app"),
        *("--port", str(port), "--no-access-log"),
    )
    url = f"http://127.0.0.1:{port}"
    child = await Child.start(
        Spec("orchestrator", command, environment, url, tmp_path / "orchestrator.log")
    )
    try:
        await child.ready()
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            for headers, status in (
                ({}, 401),
                ({"x-forwarded-for": "127.0.0.1"}, 401),
                ({"forwarded": "for=127.0.0.1"}, 401),
                ({"host": "evil.example"}, 421),
                ({"host": "sagas.example"}, 401),
                ({"host": "sagas.example", **bearer(token)}, 200),
                ({"x-forwarded-for": "192.0.2.1", **bearer(token)}, 200),
                (bearer("sgb_wrong"), 401),
            ):
                answer = await client.get("/sagas", headers=headers)
                assert answer.status_code == status, headers
                assert answer.headers["x-content-type-options"] == "nosniff"
            ours = {"origin": url, "x-forwarded-for": "192.0.2.1"}
            begun = await client.post("/session", json={"token": token}, headers=ours)
            assert list(begun.cookies) == [f"sagabox-session-{port}"]
            assert (await client.get("/sagas", headers=ours)).status_code == 200
            assert (await client.delete("/session", headers=ours)).status_code == 204
            posted = await client.post(
                "/dead-letters/redrive", json={"ids": []}, headers=bearer(token)
            )
            assert code_of(posted) == "not-allowed"
        shown = sagabox("list", "--json", "--url", url, SAGABOX_TOKEN=token)
        assert json.loads(shown.out)["items"] == []
        wrong = sagabox("list", "--json", "--url", url, SAGABOX_TOKEN="sgb_wrong")
        assert told_error(wrong)["code"] == "credentials-wrong"
        assert "sagabox token create" in told_error(wrong)["next_step"]
    finally:
        await child.stop()


@pytest.mark.databases("sqlite")
def test_a_token_lasts_as_long_as_was_said(database: Database) -> None:
    found = made(database, "ann", "--role", "viewer", "--expires", "1.5")
    row = listed(database)["ann"]
    lasts = datetime.fromisoformat(row["expires_at"]) - datetime.fromisoformat(row["made_at"])
    assert lasts == timedelta(days=1.5)
    assert found["expires_at"] == row["expires_at"]


@pytest.mark.databases("sqlite")
def test_the_commands_of_the_page_on_security_run(database: Database) -> None:
    commands = [it for it in PAGE.read_text("utf-8").splitlines() if it.startswith("sagabox token")]
    assert len(commands) == 4
    for command in commands:
        told = sagabox(*shlex.split(command)[1:], **{VARIABLE: address(database)})
        assert told.code == 0, told
    assert listed(database)["ann"]["status"] == "revoked"
