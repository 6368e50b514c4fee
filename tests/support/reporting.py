"""What a test run says at its end: every reason for a skip, and where the time went.

With SAGABOX_REQUIRE_SERVERS=1 a skip is a failure: a run that should have tested on real servers
must not look green because there was none.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Generator

import pytest

REQUIRE_SERVERS = "SAGABOX_REQUIRE_SERVERS"
TIERS = ("unit", "integration", "contracts", "acceptance", "consistency")

_skips: pytest.StashKey[Counter[str]] = pytest.StashKey()
_seconds: pytest.StashKey[defaultdict[str, float]] = pytest.StashKey()
_counts: pytest.StashKey[Counter[str]] = pytest.StashKey()


def tier_of(node_id: str) -> str:
    """Which tier a test belongs to: the folder below `tests`."""
    parts = node_id.split("::", 1)[0].split("/")
    return next((part for part in parts if part in TIERS), "other")


def servers_are_required() -> bool:
    """Whether a skip counts as a failure in this run."""
    return os.environ.get(REQUIRE_SERVERS, "") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_skips] = Counter()
    config.stash[_seconds] = defaultdict(float)
    config.stash[_counts] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    tier = tier_of(item.nodeid)
    item.config.stash[_seconds][tier] += call.duration
    if call.when == "call":
        item.config.stash[_counts][tier] += 1
    if report.skipped and not hasattr(report, "wasxfail"):
        _judge(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _judge(collector.config, report)
    return report


def _judge(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    told = report.longrepr
    reason = told[2] if isinstance(told, tuple) else str(told)
    reason = reason.removeprefix("Skipped: ")
    config.stash[_skips][reason] += 1
    if servers_are_required():
        report.outcome = "failed"
        report.longrepr = f"skipped although {REQUIRE_SERVERS} is set: {reason}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skips = config.stash[_skips]
    if skips:
        terminalreporter.section("skipped, and why")
        for reason, count in skips.most_common():
            terminalreporter.write_line(f"{count:5d} x {reason}")
    counts = config.stash[_counts]
    if counts:
        terminalreporter.section("time per tier")
        for tier in (*TIERS, "other"):
            if counts[tier]:
                seconds = config.stash[_seconds][tier]
                terminalreporter.write_line(f"{tier:12} {counts[tier]:5d} tests {seconds:8.1f} s")
