"""What a test run says at its end: every reason for a skip, what was counted, and where the time
went.

With SAGABOX_REQUIRE_SERVERS=1 a skip is a failure: a run that should have tested on real servers
must not look green because there was none.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Generator

import pytest

REQUIRE_SERVERS = "SAGABOX_REQUIRE_SERVERS"
TIERS = ("unit", "integration", "contracts", "acceptance", "consistency", "compatibility")


Count = Callable[[str, int], None]
"""What the fixture `count` gives: so much more of something, for the end of the run."""
_COUNT = "count: "


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Adds to what the run says at its end that it has done."""

    def add(name: str, number: int) -> None:
        record_property(f"{_COUNT}{name}", number)

    return add


def tier_of(node_id: str) -> str:
    """Which tier a test belongs to: the folder below `tests`."""
    parts = node_id.split("::", 1)[0].split("/")
    return next((part for part in parts if part in TIERS), "other")


def servers_are_required() -> bool:
    """Whether a skip counts as a failure in this run."""
    return os.environ.get(REQUIRE_SERVERS, "") not in ("", "0")


class _Tally:
    """Counts the reports of this process, or of all its workers."""

    def __init__(self) -> None:
        self.skips: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tier = tier_of(report.nodeid)
        self.seconds[tier] += report.duration
        if report.when == "call":
            self.tests[tier] += 1
            for name, value in report.user_properties:
                if name.startswith(_COUNT):
                    self.counts[name.removeprefix(_COUNT)] += int(str(value))
        self._note_skip(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note_skip(report)

    def _note_skip(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skips[_reason(report)] += 1


_tally: pytest.StashKey[_Tally] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_tally] = _Tally()
    config.pluginmanager.register(config.stash[_tally])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and servers_are_required():
        reason = _reason(report)
        report.outcome = "failed"
        report.longrepr = f"skipped although {REQUIRE_SERVERS} is set: {reason}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    told = report.longrepr
    reason = told[2] if isinstance(told, tuple) else str(told)
    return reason.removeprefix("Skipped: ")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tally = config.stash[_tally]
    if tally.skips:
        terminalreporter.section("skipped, and why")
        for reason, count in tally.skips.most_common():
            terminalreporter.write_line(f"{count:5d} x {reason}")
    if tally.counts:
        terminalreporter.section("counted")
        for name, number in sorted(tally.counts.items()):
            terminalreporter.write_line(f"{number:11,} {name}")
    if tally.tests:
        terminalreporter.section("time per tier")
        for tier in (*TIERS, "other"):
            if tally.tests[tier]:
                seconds = tally.seconds[tier]
                count = tally.tests[tier]
                terminalreporter.write_line(f"{tier:12} {count:5d} tests {seconds:8.1f} s")
