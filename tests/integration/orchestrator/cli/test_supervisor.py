"""Services that are kept running: one that ends is started again, and said so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.processes import supervisor as supervisor_module
from orchestrator.cli.processes.child import STOP_TIMEOUT
from orchestrator.cli.processes.supervisor import LONGEST_DELAY, Supervisor, delay_before_restart
from tests.integration.orchestrator.cli.test_processes import stub
from tests.support.processes.guardian import started
from tests.support.processes.waiting import RARELY, until


class _Said:
    """What the supervisor told; each line can be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, speaker: str, line: str) -> None:
        self.lines.append(f"{speaker}: {line}")

    async def wait_for(self, part: str, times: int = 1) -> str:
        def found() -> list[str]:
            return [it for it in self.lines if part in it]

        await until(lambda: len(found()) >= times, 20, f"{part!r} in {self.lines}")
        return found()[-1]

    async def pid(self, times: int = 1) -> int:
        """The process id of the stub, from the `times`-th line that tells it."""
        line = await self.wait_for("dev: stub serves at", times)
        return int(line.rpartition("(pid ")[2].rstrip(")"))


@asynccontextmanager
async def _supervised(
    folder: Path,
    behaviour: str = "ready",
    sources: Sequence[Path] = (),
    when_up: Callable[[], None] = lambda: None,
) -> AsyncIterator[tuple[Supervisor, _Said]]:
    said = _Said()
    supervisor = Supervisor([stub(folder, behaviour)], said, sources, when_up)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, said
    finally:
        supervisor.stop()
        await running


async def test_it_tells_what_serves_where_and_what_it_prints(tmp_path: Path) -> None:
    async with _supervised(tmp_path) as (_, said):
        await said.wait_for("dev: stub serves at http://127.0.0.1:")
        await said.wait_for("stub: started")


async def test_a_killed_service_is_started_again(tmp_path: Path) -> None:
    async with _supervised(tmp_path) as (_, said):
        first = await said.pid()
        os.kill(first, signal.SIGKILL)
        await said.wait_for("dev: stub ended (SIGKILL); restarting it in 0.5 s")
        assert await said.pid(times=2) != first


async def test_one_that_ends_at_once_is_started_again_later_and_later(tmp_path: Path) -> None:
    async with _supervised(tmp_path, "broken") as (_, said):
        await said.wait_for("dev: stub ended (exit code 3); restarting it in 0.5 s")
        await said.wait_for("dev: stub ended (exit code 3); restarting it in 1 s")
        await said.wait_for("stub: there is no database", times=2)


def test_the_delay_doubles_and_is_bounded() -> None:
    delays = [delay_before_restart(ends) for ends in range(1, 8)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_DELAY, LONGEST_DELAY]
    assert delay_before_restart(10_000) == LONGEST_DELAY


async def test_a_changed_source_restarts_the_services_without_delay(tmp_path: Path) -> None:
    source = tmp_path / "code" / "module.py"
    source.parent.mkdir()
    source.write_text("before = 1\n")
    async with _supervised(tmp_path, sources=[source.parent]) as (_, said):
        first = await said.pid()
        source.write_text("after = 1\n")
        os.utime(source, ns=(1, 1))
        await said.wait_for("dev: module.py has changed; restarting the services")
        assert await said.pid(times=2) != first
        assert not any("ended" in it for it in said.lines)


async def test_a_change_ends_the_delay_and_the_next_one_is_the_first_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_DELAY", RARELY)
    monkeypatch.setattr(supervisor_module, "LONGEST_DELAY", 4 * RARELY)
    source = tmp_path / "code" / "module.py"
    source.parent.mkdir()
    source.write_text("wrong = 1\n")
    async with _supervised(tmp_path, "broken", sources=[source.parent]) as (_, said):
        await said.wait_for(f"restarting it in {RARELY:g} s")
        source.write_text("wrong = 2\n")
        os.utime(source, ns=(1, 1))
        await said.wait_for("stub: started", times=2)
        await said.wait_for(f"restarting it in {RARELY:g} s", times=2)


async def test_it_tells_once_when_all_are_up(tmp_path: Path) -> None:
    ups: list[int] = []
    specs = [stub(tmp_path / "one"), stub(tmp_path / "two")]
    specs = [replace(it, name=name) for it, name in zip(specs, ("one", "two"), strict=True)]
    said = _Said()
    supervisor = Supervisor(specs, said, when_up=lambda: ups.append(len(said.lines)))
    running = asyncio.create_task(supervisor.run())
    line = await said.wait_for("dev: one serves at")
    await said.wait_for("dev: two serves at")
    os.kill(int(line.rpartition("(pid ")[2].rstrip(")")), signal.SIGKILL)
    await said.wait_for("dev: one serves at", times=2)
    supervisor.stop()
    await running
    (lines,) = ups
    serving = [it for it in said.lines[:lines] if " serves at " in it]
    assert len(serving) == 2


async def test_one_that_is_ready_late_is_told_once_and_counts_as_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STARTED_WITHIN", 0.5)
    ups: list[int] = []
    async with _supervised(tmp_path, "unready", when_up=lambda: ups.append(1)) as (_, said):
        line = await said.wait_for("dev: stub does not serve at")
        assert "/readyz say what it lacks" in line
        pid = int(line.partition("yet (pid ")[2].partition(")")[0])
        await said.wait_for("stub: started")
        os.kill(pid, signal.SIGUSR1)
        assert await said.pid() == pid
    assert ups == [1]
    assert len([it for it in said.lines if "does not serve" in it]) == 1


async def test_when_it_has_stopped_nothing_runs(tmp_path: Path) -> None:
    async with _supervised(tmp_path) as (_, said):
        pid = await said.pid()
    assert not started(pid)


async def test_a_second_stop_kills(tmp_path: Path) -> None:
    said = _Said()
    supervisor = Supervisor([stub(tmp_path, "stubborn")], said)
    running = asyncio.create_task(supervisor.run())
    pid = await said.pid()
    supervisor.stop()
    supervisor.stop()
    async with asyncio.timeout(STOP_TIMEOUT / 2):
        await running
    assert not started(pid)


async def test_what_is_printed_at_the_very_end_is_told_too(tmp_path: Path) -> None:
    spec = stub(tmp_path)
    said = _Said()
    supervisor = Supervisor([spec], said)
    running = asyncio.create_task(supervisor.run())
    await said.pid()
    with spec.log.open("a") as log:
        supervisor.stop()
        log.write("the last word\n")
    await running
    assert "stub: the last word" in said.lines


async def test_when_it_is_cancelled_nothing_runs(tmp_path: Path) -> None:
    said = _Said()
    running = asyncio.create_task(Supervisor([stub(tmp_path)], said).run())
    pid = await said.pid()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not started(pid)
