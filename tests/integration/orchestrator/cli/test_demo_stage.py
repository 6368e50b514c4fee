"""The demo's processes: none stays, and none stays frozen, however the demo ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.cli.demo.stage import Stage, blog_in
from orchestrator.cli.processes.child import STOP_TIMEOUT, Child, Spec
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.ways.way import Way
from tests.integration.orchestrator.cli.test_processes import stub
from tests.support.processes.guardian import guardian, started


class _Blog:
    """Has one service, which does as it is told."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def spec(self, name: str, *, extra: Mapping[str, str]) -> Spec:
        return replace(self._spec, name=name, environment=extra)


async def _stage(folder: Path, behaviour: str = "ready") -> tuple[Stage, Child]:
    stage = Stage(cast(Any, _Blog(stub(folder, behaviour))), cast(Any, None))
    child = await stage.start("stub")
    guardian().entrust_process(child.pid)
    return stage, child


async def test_closing_ends_the_services(tmp_path: Path) -> None:
    stage, child = await _stage(tmp_path)
    await stage.close()
    assert not started(child.pid)
    assert child.ending == "SIGTERM"


async def test_ctrl_c_while_the_services_stop_kills_them(tmp_path: Path) -> None:
    stage, child = await _stage(tmp_path, "stubborn")
    closing = asyncio.create_task(stage.close())
    await asyncio.sleep(0)  # it has begun
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(STOP_TIMEOUT / 2):
            await closing
    assert not started(child.pid)
    assert child.ending == "SIGKILL"


async def test_a_frozen_service_is_thawed_also_where_the_scene_fails(tmp_path: Path) -> None:
    stage, child = await _stage(tmp_path)
    with pytest.raises(RuntimeError, match="it failed"), stage.frozen("stub"):
        raise RuntimeError("it failed")
    await child.ready()
    await stage.close()


async def test_the_end_of_a_service_is_told(tmp_path: Path) -> None:
    stage, child = await _stage(tmp_path)
    child.send_kill()
    assert await stage.any_ended() == "stub"
    assert await stage.until_dead("stub") == "SIGKILL"


def test_a_folder_with_databases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "comments.sqlite").touch()
    with pytest.raises(CommandError, match="has databases already"):
        blog_in(tmp_path, Way())
