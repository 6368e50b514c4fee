"""`sagabox demo` as a person runs it: it shows and checks what it says, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from typer.testing import CliRunner

from orchestrator.cli import main
from orchestrator.cli.demo import play
from orchestrator.cli.demo.checks import Comment
from orchestrator.cli.demo.deletions import refused
from orchestrator.cli.demo.visitors import Visitors
from orchestrator.cli.terminal.errors import ExitCode
from tests.support.processes.guardian import guardian, started
from tests.support.processes.waiting import wait_until

_DEADLINE = 120.0  # seconds; a machine that has nothing else to do needs twenty

pytestmark = pytest.mark.timeout(300)  # for one that has much else to do


class Running:
    """A running `sagabox demo`, whose folder is made in `folder`, and what it has printed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._output = folder / "output"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        # Settings of a user's own services, which are none of the demo's business.
        others = {"SAGABOX_BLOG_TOKEN": "x" * 40, "SAGABOX_DATABASE_URL_ARTICLES": "nonsense"}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("sagabox"), "demo", *options],
                cwd=folder,
                env={**os.environ, **others, "TMPDIR": str(self.temporary)},
                stdout=output,
                stderr=output,
                # A terminal of its own, so to say: Ctrl-C reaches it, and not pytest.
                start_new_session=True,
            )
        guardian().entrust_process(self.process.pid)

    @property
    def output(self) -> str:
        return self._output.read_text("utf-8")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output or self.process.poll() is not None, _DEADLINE, text)
        assert text in self.output, self.output

    def services(self) -> list[int]:
        """The process ids of the services that run now."""
        return [it.pid for it in psutil.Process(self.process.pid).children(recursive=True)]

    def press_ctrl_c(self) -> int:
        """What a terminal does at Ctrl-C. Returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(_DEADLINE)


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[list[Running]]:
    """Ends what is appended."""
    demos: list[Running] = []
    yield demos
    for demo in demos:
        demo.process.kill()
        demo.process.wait(_DEADLINE)
        sys.stdout.write(demo.output)  # pytest shows it where the test has failed


def test_the_demo_shows_each_scene_runs_on_with_keep_and_leaves_nothing(
    tmp_path: Path, ended: list[Running]
) -> None:
    demo = Running(tmp_path, "--keep")
    ended.append(demo)
    demo.wait_for("everything runs on, until Ctrl-C")
    told = demo.output
    for scene in ("(a) a deletion that completes", "(b) one that a legal hold refuses"):
        assert f"\n{scene}" in told
    for scene in ("(c) one during which comments", "(d) one during which the orchestrator"):
        assert f"\n{scene} is killed" in told
    assert "\n(e) 50 deletions while comments keep coming in" in told
    assert "writing 200 comments" in told
    assert "BROKEN" not in told
    # Each scene and the audit stand in the table, with what came of it.
    rows = re.findall(r"^│ (\(\w\)|the audit).*│ (\w[\w ]*?) +│ +[\d.]+ s +│.*│ ok │$", told, re.M)
    assert rows == [
        ("(a)", "COMPLETED"),
        ("(b)", "COMPENSATED"),
        ("(c)", "COMPLETED"),
        ("(d)", "COMPLETED"),
        ("(e)", "50 ended"),
        ("the audit", "agree"),
    ]

    services = demo.services()
    assert len(services) == 3
    (console,) = re.findall(r"^console +(http://127\.0\.0\.1:\d+/console)$", told, re.M)
    with httpx.Client(trust_env=False, timeout=60) as client:
        assert client.get(console).status_code == httpx.codes.OK
        sagas = client.get(console.replace("/console", "/sagas")).json()["items"]
    assert sagas != []

    assert demo.press_ctrl_c() == 0, demo.output
    assert [it for it in services if started(it)] == []
    assert list(demo.temporary.iterdir()) == []


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path, ended: list[Running]) -> None:
    demo = Running(tmp_path)
    ended.append(demo)
    demo.wait_for("writing 200 comments")
    services = demo.services()
    assert len(services) == 3
    assert demo.press_ctrl_c() == 130
    assert "interrupted; no service runs any more" in demo.output
    assert "Traceback" not in demo.output
    assert [it for it in services if started(it)] == []
    assert list(demo.temporary.iterdir()) == []


def test_a_demo_that_finds_a_comment_changed_ends_with_1_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    shown = Visitors.comments

    async def forged(self: Visitors, article: str) -> list[Comment]:
        comments = list(await shown(self, article))
        looks.append(article)
        if len(looks) == 2:  # the first look is the one before the deletion
            comments[3] = {**comments[3], "content": "forged"}
        return comments

    monkeypatch.setattr(Visitors, "comments", forged)
    monkeypatch.setattr(play, "SCENES", (refused,))
    told = CliRunner().invoke(main, ["demo", "--folder", str(tmp_path / "demo")])
    assert told.exit_code == ExitCode.OTHERWISE, told.output
    assert re.search("error: the demo found a promise broken", told.stderr)
    assert re.search(
        r"why: .*word by word: expected \[\], found \['\S+ has another content'\]", told.stderr
    )
    assert "BROKEN" in told.stdout
    # What was asked for is kept, to be looked at.
    assert (tmp_path / "demo" / "logs" / "comments.log").read_text()
