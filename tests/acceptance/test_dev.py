"""`sagabox dev` as a person runs it: it starts all, keeps it running, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.cli.processes.services import SERVICES
from tests.support.brokers.nats_server import a_nats_server, nats_server
from tests.support.checkout import ROOT
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.developing import DEADLINE, Dev, running_dev
from tests.support.processes.guardian import started
from tests.support.processes.waiting import free_port, wait_until

pytestmark = pytest.mark.timeout(300)  # for one that has much else to do


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    with running_dev(tmp_path) as running:
        yield running


def test_dev_runs_the_services_restarts_a_killed_one_and_leaves_nothing_after_ctrl_c(
    dev: Dev,
) -> None:
    first = {name: dev.wait_for_run(name, 1) for name in SERVICES}
    _do_as_it_says(dev)
    article = {"title": "a title", "body": "a text", "author": "me"}
    response = httpx.post(dev.url("articles") + "/articles", json=article, timeout=60)
    assert response.status_code == httpx.codes.CREATED, response.text

    os.kill(first["comments"], signal.SIGKILL)
    second = dev.wait_for_run("comments", 2)
    assert second != first["comments"]
    assert "comments ended (SIGKILL); restarting it in 0.5 s" in dev.output
    assert "articles ended" not in dev.output

    comment = {"article_id": response.json()["id"], "author": "me", "content": "hear, hear"}
    wait_until(lambda: _accepted(dev, comment), DEADLINE, "comments knows the article")

    assert dev.press_ctrl_c() == 0, dev.output
    assert re.search(r"^dev +\| stopped$", dev.output, re.MULTILINE)
    assert [it for it in dev.children() if started(it)] == []
    assert dev.output.count(" ended (") == 1, "Ctrl-C is for dev alone, which asks the services"
    # They were asked to end, and did so by themselves.
    assert dev.output.count("Application shutdown complete") == len(SERVICES)
    assert (dev.folder / ".sagabox" / "secret").stat().st_mode & 0o777 == 0o600
    assert dev.output.count("everything runs") == 1, "once, also where services come again"


def _do_as_it_says(dev: Dev) -> None:
    """Look at the addresses that it prints, and try the three commands."""
    wait_until(lambda: "sagabox list --url" in dev.output, DEADLINE, "dev says what to try")
    told = re.findall(r"^dev +\|   (.*)$", dev.output, re.MULTILINE)
    addresses = {words[0]: words[1] for words in map(str.split, told) if words[0] in SERVICES}
    assert addresses == {name: dev.url(name) for name in SERVICES}
    assert addresses["orchestrator"] == f"http://127.0.0.1:{dev.first_port}"
    assert f"the console   {addresses['orchestrator']}/console" in told
    console = httpx.get(f"{addresses['orchestrator']}/console", timeout=60)
    assert console.status_code == httpx.codes.OK

    write, delete, look = (shlex.split(it) for it in told if it.startswith(("curl", "sagabox")))
    article = _curl(write)
    saga = _curl([it.replace("ID", article["id"]) for it in delete])["saga_id"]
    wait_until(lambda: saga in _sagabox(look), DEADLINE, "the list has the saga")


def _curl(words: Sequence[str]) -> Any:
    """What curl does: not everybody has it."""
    options = iter(words[1:])
    method, url, headers, content = "GET", "", {}, None
    for word in options:
        match word:
            case "-X":
                method = next(options)
            case "-H":
                name, _, value = next(options).partition(": ")
                headers[name] = value
            case "-d":
                content = next(options)
            case _:
                url = word
    answer = httpx.request(method, url, headers=headers, content=content, timeout=60)
    assert answer.is_success, answer.text
    return answer.json()


def _sagabox(words: Sequence[str]) -> str:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.databases("postgresql")
def test_dev_takes_the_databases_that_the_settings_name(
    tmp_path: Path, database_factory: DatabaseFactory
) -> None:
    databases = {name: database_factory("empty") for name in SERVICES}
    settings = {SERVICES[name].database_variable: it.url for name, it in databases.items()}
    with running_dev(tmp_path, settings) as dev:
        for name in SERVICES:
            dev.wait_for_run(name, 1)
            assert re.search(rf"the database of {name} is at \S+: postgresql://", dev.output)
        article = {"title": "a title", "body": "a text", "author": "me"}
        response = httpx.post(dev.url("articles") + "/articles", json=article, timeout=60)
        assert response.status_code == httpx.codes.CREATED, response.text
        assert dev.press_ctrl_c() == 0, dev.output
        assert list((dev.folder / ".sagabox").glob("*.sqlite")) == []


def test_dev_lets_the_services_send_over_grpc_where_it_is_told_to(tmp_path: Path) -> None:
    with running_dev(tmp_path, words=["--transport", "grpc"]) as dev:
        for name in SERVICES:
            dev.wait_for_run(name, 1)
        article = {"title": "a title", "body": "a text", "author": "me"}
        written = httpx.post(dev.url("articles") + "/articles", json=article, timeout=60).json()
        deleted = httpx.delete(f"{dev.url('articles')}/articles/{written['id']}", timeout=60)
        saga = deleted.headers["location"]
        assert saga.startswith(dev.url("orchestrator"))
        wait_until(lambda: _status(saga) == "COMPLETED", DEADLINE, "the article is deleted")
        assert f"messages go over gRPC, at {dev.first_port + 3} (orchestrator)" in dev.output
        assert "POST /messages" not in dev.output
        assert dev.press_ctrl_c() == 0, dev.output


@pytest.mark.parametrize("names_one", [True, False], ids=["that is there", "of its own"])
def test_dev_lets_the_services_send_through_a_broker_by_one_setting(
    tmp_path: Path, names_one: bool
) -> None:
    with ExitStack() as stack:
        there = stack.enter_context(a_nats_server()).url() if names_one else "nats"
        nats_server()
        dev = stack.enter_context(running_dev(tmp_path, words=["--transport", there]))
        for name in SERVICES:
            dev.wait_for_run(name, 1)
        article = {"title": "a title", "body": "a text", "author": "me"}
        written = httpx.post(dev.url("articles") + "/articles", json=article, timeout=60).json()
        deleted = httpx.delete(f"{dev.url('articles')}/articles/{written['id']}", timeout=60)
        saga = deleted.headers["location"]
        assert saga.startswith(dev.url("orchestrator"))
        wait_until(lambda: _status(saga) == "COMPLETED", DEADLINE, "the article is deleted")
        assert "messages go through nats at 127.0.0.1:" in dev.output
        assert "POST /messages" not in dev.output
        assert dev.press_ctrl_c() == 0, dev.output


def test_dev_runs_the_applications_that_services_are_attached_to(tmp_path: Path) -> None:
    """As the page on commands has it; the module of the shop makes its own tables."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "examples")))
    settings = {"SAGABOX_SAGAS": "shop.saga:place_order", "PYTHONPATH": path}
    own = ["shop.stock:service", "shop.payments:service"]
    with running_dev(tmp_path, settings, own) as dev:
        for name in ("orchestrator", "stock", "payments"):
            dev.wait_for_run(name, 1)
        stock, payments = (f"http://127.0.0.1:{dev.first_port + it}" for it in (1, 2))
        with httpx.Client(timeout=60) as client:
            client.put(f"{stock}/items/lamp", json={"price": 4000, "free": 10}).raise_for_status()
            client.put(f"{payments}/cards/1", json={"limit": 10_000}).raise_for_status()
            order = {"item": "lamp", "quantity": 2, "card": "1"}
            placed = client.post(f"{stock}/orders", json=order).raise_for_status().json()["id"]
            run = f"http://127.0.0.1:{dev.first_port}/sagas/{placed}"
            wait_until(lambda: _status(run) == "COMPLETED", DEADLINE, "the order is placed")
            assert client.get(f"{stock}/items/lamp").json()["free"] == 8
        assert dev.press_ctrl_c() == 0, dev.output
        assert dev.output.count("Application shutdown complete") == 3


def test_dev_says_what_a_transport_may_be(tmp_path: Path) -> None:
    with running_dev(tmp_path, words=["--transport", "smtp://localhost"]) as dev:
        assert dev.process.wait(DEADLINE) == 2
        assert "there is no transport 'smtp://localhost'" in dev.output
        assert "sagabox dev --transport nats://127.0.0.1:4222" in dev.output


def _status(saga: str) -> str | None:
    status: str | None = httpx.get(saga, timeout=60).json().get("status")
    return status


def test_dev_says_what_is_wrong_with_a_database_and_starts_nothing(tmp_path: Path) -> None:
    with running_dev(
        tmp_path, {"SAGABOX_DATABASE_URL_COMMENTS": "mysql://me:secret@host/x"}
    ) as dev:
        assert dev.process.wait(DEADLINE) == 2
        assert "error: comments: the database's address cannot be used" in dev.output
        assert "mysql:// is not supported" in dev.output
        assert "secret" not in dev.output
        assert dev.children() == []


def test_a_dev_that_is_killed_leaves_nothing_either(dev: Dev) -> None:
    pids = [dev.wait_for_run(name, 1) for name in SERVICES]
    dev.process.kill()
    wait_until(lambda: not any(map(started, pids)), 10, "the services have ended")


def test_a_second_dev_in_the_same_folder_is_refused(dev: Dev) -> None:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "dev"]
    second = subprocess.run(
        [*command, "--port-base", str(free_port())],
        cwd=dev.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert second.returncode == 2
    assert "error: .sagabox is in use" in second.stderr
    assert dev.press_ctrl_c() == 0


def _accepted(dev: Dev, comment: dict[str, str]) -> bool:
    response = httpx.post(dev.url("comments") + "/comments", json=comment, timeout=60)
    assert response.status_code in (httpx.codes.CREATED, httpx.codes.NOT_FOUND), response.text
    return response.status_code == httpx.codes.CREATED
