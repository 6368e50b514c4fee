"""`sagabox dev` as a person runs it: it starts all, keeps it running, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.cli.services import SERVICES
from tests.support.guardian import guardian, started
from tests.support.waiting import free_port, wait_until

_DEADLINE = 60.0  # seconds; a machine that has nothing else to do needs a few

pytestmark = pytest.mark.timeout(300)  # for one that has much else to do


class Dev:
    """A running `sagabox dev`, and what it has printed."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self.folder = folder
        self.first_port = first_port
        self._output = folder / "output"
        command = Path(sys.executable).with_name("sagabox")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [command, "dev", "--port-base", str(first_port)],
                cwd=folder,
                stdout=output,
                stderr=output,
                # A terminal of its own, so to say: Ctrl-C reaches it, and not pytest.
                start_new_session=True,
            )
        guardian().entrust_process(self.process.pid)

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8")

    def has_ports_or_ended(self) -> bool:
        """Whether it found its ports free, and went on."""
        return self.process.poll() is not None or "the database of" in self.output

    def pids(self, name: str) -> list[int]:
        """The process ids of each run of the service that got ready."""
        found = re.findall(rf"dev +\| {name} serves at \S+ \(pid (\d+)\)", self.output)
        return [int(it) for it in found]

    def wait_for_run(self, name: str, number: int) -> int:
        """The process id of the `number`-th run of the service."""
        wait_until(
            lambda: len(self.pids(name)) >= number or self.process.poll() is not None,
            _DEADLINE,
            f"run {number} of {name}",
        )
        assert self.process.poll() is None, self.output
        pid = self.pids(name)[number - 1]
        guardian().entrust_process(pid)
        return pid

    def press_ctrl_c(self) -> int:
        """What a terminal does at Ctrl-C. Returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(_DEADLINE)

    def children(self) -> list[int]:
        """The process ids of all runs of all services."""
        return [it for name in SERVICES for it in self.pids(name)]


def _start(folder: Path) -> Dev:
    folder.mkdir()
    # Three ports in a row; what is free now may be taken in a moment, so look at the end as well.
    return Dev(folder, free_port())


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    for attempt in range(5):
        running = _start(tmp_path / str(attempt))
        wait_until(running.has_ports_or_ended, _DEADLINE, "dev has chosen its ports")
        if "another program listens there" not in running.output:
            break
    yield running
    running.process.kill()
    running.process.wait(_DEADLINE)
    sys.stdout.write(running.output)  # pytest shows it where the test has failed


def test_dev_runs_the_services_restarts_a_killed_one_and_leaves_nothing_after_ctrl_c(
    dev: Dev,
) -> None:
    first = {name: dev.wait_for_run(name, 1) for name in SERVICES}
    article = {"title": "a title", "body": "a text", "author": "me"}
    response = httpx.post(_at(dev, "articles") + "/articles", json=article, timeout=10)
    assert response.status_code == httpx.codes.CREATED, response.text

    os.kill(first["comments"], signal.SIGKILL)
    second = dev.wait_for_run("comments", 2)
    assert second != first["comments"]
    assert "comments ended (SIGKILL); restarting it in 0.5 s" in dev.output
    assert "articles ended" not in dev.output

    comment = {"article_id": response.json()["id"], "author": "me", "content": "hear, hear"}
    wait_until(lambda: _accepted(dev, comment), _DEADLINE, "comments knows the article")

    assert dev.press_ctrl_c() == 0, dev.output
    assert re.search(r"^dev +\| stopped$", dev.output, re.MULTILINE)
    assert [it for it in dev.children() if started(it)] == []
    assert dev.output.count(" ended (") == 1, "Ctrl-C is for dev alone, which asks the services"
    # They were asked to end, and did so by themselves.
    assert dev.output.count("Application shutdown complete") == len(SERVICES)
    assert (dev.folder / ".sagabox" / "secret").stat().st_mode & 0o777 == 0o600


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
        timeout=_DEADLINE,
    )
    assert second.returncode == 2
    assert "error: .sagabox is in use" in second.stderr
    assert dev.press_ctrl_c() == 0


def _at(dev: Dev, name: str) -> str:
    return f"http://127.0.0.1:{dev.first_port + SERVICES[name].offset}"


def _accepted(dev: Dev, comment: dict[str, str]) -> bool:
    response = httpx.post(_at(dev, "comments") + "/comments", json=comment, timeout=10)
    assert response.status_code in (httpx.codes.CREATED, httpx.codes.NOT_FOUND), response.text
    return response.status_code == httpx.codes.CREATED
