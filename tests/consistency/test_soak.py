"""Random faults of real processes on PostgreSQL, round after round: `make soak MINUTES=n`; and a
round of the faults that no other scenario has, in every run of the tests.

In each round people publish, comment, hold and delete while several things go wrong; then all
heals, and everything that was accepted must end, and be as it should. The seed (SAGABOX_SOAK_SEED)
chooses faults and victims; when exactly they strike is up to the machine. The report is printed,
and written into the file that SAGABOX_SOAK_REPORT names.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest

from outbox.clock import SystemClock
from tests.support.blog.rounds import play, scenario, tally
from tests.support.blog.soak_report import SoakReport
from tests.support.databases.postgres import PostgresServer
from tests.support.faults.chaos import FAULTS, world
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

PROCESSES = tuple(it for it in FAULTS if it.startswith("a process"))
ADDRESSES = tuple(it for it in FAULTS if it.startswith("an address"))
_TOO_MANY = 20  # violations, after which nothing new is learnt


@pytest.mark.timeout(900)
async def test_deletions_end_rightly_while_processes_die_hang_and_are_restarted(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        await round_of(*PROCESSES, at_once=2)


@pytest.mark.timeout(900)
async def test_deletions_end_rightly_while_addresses_die_move_and_belong_to_strangers(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        await round_of(*ADDRESSES, at_once=2)


@pytest.mark.soak
async def test_deletions_end_rightly_through_minutes_of_random_faults(
    blog_on_own_server: RunningBlog,
    own_server: PostgresServer,
    soak_minutes: float,
    count: Count,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = SoakReport(
        seed=int(os.environ.get("SAGABOX_SOAK_SEED") or SystemClock().now().timestamp())
    )
    chance = Random(report.seed)
    started = time.monotonic()
    async with world(blog_on_own_server, own_server, chance) as all_:
        while report.minutes < soak_minutes and len(report.violations) < _TOO_MANY:
            faults = chance.choices([*FAULTS], k=chance.randint(3, 12))
            await play(all_, report, faults)
            report.minutes = (time.monotonic() - started) / 60
    tally(report, count)
    if path := os.environ.get("SAGABOX_SOAK_REPORT"):
        Path(path).write_text(report.text(), "utf-8")
    with capsys.disabled():
        sys.stdout.write(f"\n{report.text()}")
    assert report.violations == []
    assert report.ends.total() > 0
