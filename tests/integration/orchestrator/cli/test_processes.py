"""Services as child processes: started, ready, stopped, killed, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from orchestrator.cli.processes import lifeline
from orchestrator.cli.processes.child import Child, Spec
from orchestrator.cli.terminal.errors import CommandError
from tests.support.orchestrator import stub_service
from tests.support.processes.guardian import guardian, started
from tests.support.processes.waiting import free_port, wait_until

Start = Callable[..., Awaitable[Child]]


def stub(folder: Path, behaviour: str = "ready") -> Spec:
    """A small service that behaves so."""
    port = free_port()
    return Spec(
        name="stub",
        command=(sys.executable, "-I", stub_service.__file__, str(port), behaviour),
        environment={},
        url=f"http://127.0.0.1:{port}",
        log=folder / "logs" / "stub.log",
    )


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    children: list[Child] = []

    async def _start(behaviour: str = "ready") -> Child:
        child = await Child.start(stub(tmp_path, behaviour))
        guardian().entrust_process(child.pid)
        children.append(child)
        return child

    yield _start
    for child in children:
        await child.kill()


async def test_a_service_is_ready_when_it_says_so(start: Start) -> None:
    child = await start()
    await child.ready()
    assert child.running
    assert child.ending == "running"


async def test_one_that_ends_before_is_told_with_the_end_of_its_log(start: Start) -> None:
    child = await start("broken")
    with pytest.raises(CommandError) as caught:
        await child.ready()
    assert "it ended (exit code 3)" in caught.value.why
    assert "there is no database" in caught.value.why
    assert str(child.spec.log) in caught.value.next_step


async def test_one_that_does_not_get_ready_is_waited_for_only_so_long(start: Start) -> None:
    child = await start("unready")
    with pytest.raises(CommandError, match=r"did not answer 200 within 0\.2 s"):
        await child.ready(timeout=0.2)
    assert child.running


async def test_stop_asks_first(start: Start) -> None:
    child = await start()
    await child.ready()
    assert await child.stop() == -signal.SIGTERM
    assert (child.running, child.ending) == (False, "SIGTERM")


async def test_stop_kills_what_does_not_listen(start: Start) -> None:
    child = await start("stubborn")
    await child.ready()
    assert await child.stop(timeout=0.1) == -signal.SIGKILL


async def test_a_frozen_one_does_not_answer_until_it_is_thawed(start: Start) -> None:
    child = await start()
    await child.ready()
    child.freeze()
    with pytest.raises(CommandError, match="did not answer"):
        await child.ready(timeout=0.3)
    assert child.running
    child.thaw()
    await child.ready()


async def test_a_frozen_one_can_be_killed(start: Start) -> None:
    child = await start()
    await child.ready()
    child.freeze()
    assert await child.kill() == -signal.SIGKILL


async def test_ending_it_twice_is_fine(start: Start) -> None:
    child = await start()
    assert await child.kill() == -signal.SIGKILL
    assert await child.kill() == -signal.SIGKILL
    assert await child.stop() == -signal.SIGKILL
    assert await child.wait() == -signal.SIGKILL


async def test_a_restart_is_the_same_service_in_another_process(start: Start) -> None:
    first = await start()
    await first.ready()
    second = await first.restart()
    assert second.spec is first.spec
    assert second.pid != first.pid
    assert not first.running
    await second.kill()
    assert second.spec.log.read_text() == "started\nstarted\n"


async def test_ctrl_c_in_the_terminal_reaches_the_parent_alone(start: Start) -> None:
    child = await start()
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    spec = Spec("stub", ("no-such-program",), {}, "http://127.0.0.1:1", tmp_path / "log")
    with pytest.raises(CommandError, match=r"stub cannot be started: .*no-such-program"):
        await Child.start(spec)


async def test_a_child_gets_the_environment_of_its_spec_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_SECRETS", "of the parent")
    command = (sys.executable, "-I", "-c", "import os; print(sorted(os.environ))")
    spec = Spec("stub", command, {"ONLY": "this"}, "http://127.0.0.1:1", tmp_path / "log")
    child = await Child.start(spec)
    assert await child.wait() == 0
    names = spec.log.read_text()
    assert "ONLY" in names
    assert lifeline.VARIABLE in names
    assert "SAGABOX_SECRETS" not in names


_PARENT = """
import asyncio, sys
from pathlib import Path
from orchestrator.cli.processes.child import Child, Spec
CODE = (
    "import time; from orchestrator.cli.processes.lifeline import tie_to_parent; "
    "tie_to_parent(); print('tied', flush=True); "
    "time.sleep(60)  # an end of its own, where the lifeline fails"
)
async def main():
    command = (sys.executable, "-c", CODE)
    import os
    child = await Child.start(Spec("it", command, os.environ, "http://127.0.0.1:1", LOG))
    print(child.pid, flush=True)
    await child.wait()
LOG = Path(sys.argv[1])
asyncio.run(main())
"""


def test_a_child_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    guardian().entrust_process(child)
    wait_until(lambda: log.exists() and "tied" in log.read_text(), 30, "the child is tied")
    parent.kill()
    parent.communicate()
    wait_until(lambda: not started(child), 10, "the child has ended")


def test_a_child_whose_parent_has_ended_before_does_not_stay(tmp_path: Path) -> None:
    code = (
        "from orchestrator.cli.processes.lifeline import tie_to_parent; "
        "tie_to_parent(); print('stays')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, lifeline.VARIABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "")


def test_without_a_parent_s_name_nothing_happens() -> None:
    lifeline.tie_to_parent({})
