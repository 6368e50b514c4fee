"""The snippets of the page on gRPC run, and what it says of versions and statuses is so."""

from __future__ import annotations

import asyncio
import re
import shlex
import tomllib
from typing import Any

import grpc
import pytest
import typer
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from orchestrator.api_grpc.service import RunsService
from orchestrator.cli import main
from orchestrator.sagas.delete_article import delete_article
from outbox.chassis.access.routes import Role
from outbox.transports.grpc.server import GrpcServer
from outbox.transports.http.peers import peers_in
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.blog.whole_blog import whole_blog
from tests.support.checkout import ROOT
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.callers import give_token
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.outbox.services import make_service
from tests.support.repository.manual import blocks

PAGE = "docs/operate/grpc.md"


@pytest.mark.databases("sqlite")
async def test_the_port_is_given_in_python_as_the_page_says(engine: AsyncEngine) -> None:
    listen, _ = blocks(PAGE, "python")
    service: outbox.Service = make_service(engine)
    exec(listen, {"service": service})
    with pytest.raises(outbox.errors.InvalidService, match="certificate"):
        service.entrance.listen_grpc(8101, certificate=ROOT / "README.md")


@pytest.mark.databases("sqlite")
async def test_a_run_is_started_as_the_page_says(
    database_factory: DatabaseFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    _, start = blocks(PAGE, "python")
    databases = {
        "articles": database_factory(articles_schema),
        "comments": database_factory(comments_schema),
        "orchestrator": database_factory(orchestrator_schema),
    }
    async with whole_blog(databases, [delete_article]) as blog:
        running = blog.services["orchestrator"]
        token = await give_token(running.chassis.database, "ann", Role.OPERATOR)
        article = await blog.publish()
        async with GrpcServer([RunsService(running.app)]).serving() as port:
            known = {
                "address": f"127.0.0.1:{port}",
                "token": token,
                "article": article.encode(),
            }
            await asyncio.to_thread(exec, start, known)
            known["channel"].close()  # type: ignore[attr-defined]  # the snippet made it
    assert re.fullmatch(r"[0-9a-f-]{36} COMPLETED\n", capsys.readouterr().out)


def test_its_commands_are_ones_that_the_terminal_takes() -> None:
    lines = "".join(blocks(PAGE, "sh")).splitlines()
    words = [shlex.split(it)[1:] for it in lines if it.startswith("sagabox ")]
    assert len(words) == 3
    group = typer.main.get_command(main)
    for each in words:
        with group.make_context("sagabox", list(each)) as context:
            command: Any = group
            rest, parent = each, context
            while isinstance(command, typer.core.TyperGroup):
                name, command, rest = command.resolve_command(parent, rest)
                assert command is not None
                parent = command.make_context(str(name), rest, parent=parent)


def test_its_addresses_are_ones() -> None:
    one, several = re.findall(r'SAGABOX_PEERS="(.*)"', (ROOT / PAGE).read_text())
    assert list(peers_in(one)) == ["stock", "mail", "bank"]
    assert list(peers_in(several)) == ["stock", "mail"]


def test_the_oldest_versions_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["grpc"]
    assert {"grpcio>=1.80", "protobuf>=6.33"} <= set(extra)
    assert "`grpcio` 1.80 and `protobuf` 6.33" in (ROOT / PAGE).read_text()


def test_every_status_of_its_table_is_one() -> None:
    table = (ROOT / PAGE).read_text().partition("| status |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| (`[A-Z_`, ]+`) \|", table, re.M)
    found = [status for cell in named for status in re.findall(r"[A-Z_]+", cell)]
    assert len(found) == 8
    assert [it for it in found if it not in grpc.StatusCode.__members__] == []
