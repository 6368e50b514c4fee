"""`examples/node_participant` keeps the wire contract, and each fault in it is found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.cli.terminal import output
from orchestrator.testing.conforming.running import TRIALS
from orchestrator.testing.conforming.trial import Ending
from tests.support.checkout import ROOT
from tests.support.participants.faults import FAULTS, Fault
from tests.support.participants.node import SECRETS, running_node
from tests.support.processes.cli import sagabox

pytestmark = pytest.mark.slow


async def test_the_participant_in_node_keeps_the_contract(tmp_path: Path) -> None:
    async with running_node(tmp_path) as participant:
        results = await participant.tried()
        assert [it for it in results if it.ending is not Ending.PASSED] == []
        assert [it.trial for it in results] == list(TRIALS)
        assert participant.log == ""


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_is_found_by_the_trial_that_is_there_for_it(
    fault: Fault, tmp_path: Path
) -> None:
    async with running_node(tmp_path, fault.patches) as participant:
        (result,) = await participant.tried(fault.trial)
    assert result.ending is Ending.FAILED
    assert result.sent
    assert result.came
    assert result.expected


async def test_half_a_line_of_its_journal_is_forgotten(tmp_path: Path) -> None:
    async with running_node(tmp_path) as participant:
        await participant.tried("duplicate")
        whole = participant.journal.read_bytes()
        await participant.kill()
        for torn in (b"[", b'[["row","\xc3', b"\0" * 5000):
            participant.journal.write_bytes(whole + torn)
            await participant.start()
            assert participant.journal.read_bytes() == whole
            await participant.kill()
        await participant.start()
        (result,) = await participant.tried("duplicate")
    assert result.ending is Ending.PASSED


async def test_the_failure_on_the_page_is_what_the_terminal_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = [it for it in FAULTS if it.what == "an undo that comes first bars nothing"]
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    monkeypatch.setattr(output, "width", lambda: 80)
    async with running_node(tmp_path, fault.patches) as participant:
        only = "--only", fault.trial
        told = await asyncio.to_thread(sagabox, "conform", participant.url, *only)
    assert told.code == 1
    page = (ROOT / "docs/guide/other-languages.md").read_text()
    shown = page.partition("<!-- failed trial -->\n```\n")[2].partition("```")[0]
    assert told.out == f"{shown}\n1 failed\n"


def test_each_trial_finds_a_fault() -> None:
    assert {it.name for it in TRIALS} == {it.trial for it in FAULTS}
