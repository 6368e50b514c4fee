"""A second try, which the option `--again` gives to what a busy machine alone may fail.

The whole run has thousands of tests side by side, each with the servers that it starts. What fails
then with real servers, processes and browsers is run once more, with nothing beside it, and only
what fails again makes the run a failed one. The run tells each second try with its first failure,
so that it can be mended.

No second try have units, which have a clock of their own; nor what looks for broken promises, and
any failure that tells of one. Nor is there one where more than a few fail: that is not the machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from tests.support.repository.reporting import tier_of

AT_MOST = 3
"""So many tests may have a second try."""
_TIERS = ("integration", "contracts", "acceptance", "compatibility")
_TELLS_OF_A_PROMISE = re.compile(
    r"^([E>]|\s*[|+]).*(Broken|broken|[Vv]iolation|\b(assert|require)_\w+\()"
    r"|def (assert|require)_\w+\(",
    re.MULTILINE,
)
"""In the lines that failed and what they raised, and in all lines of a group of errors. Also a
checker of promises among the functions of the trace, such as `assert_ended_rightly`; one that was
called before, and passed, tells nothing."""
_NAMED_AFTER_A_PROMISE = re.compile(r"::test_p\d")
_PHASES = ("setup", "call", "teardown")
_PATIENCE = 1_800  # seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--again",
        action="store_true",
        help="run what failed with real servers once more, with nothing beside it",
    )


@dataclass
class SecondTry:
    """Notes what fails in a run, and runs it once more at the end."""

    config: pytest.Config
    failed: dict[str, str] = field(default_factory=dict)
    """The ids of the tests that failed, and why they get no second try; empty where they do."""
    told: list[str] = field(default_factory=list)
    """What the run says of it."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = self.failed.get(report.nodeid) or why_not(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = "it could not be collected"

    @pytest.hookimpl(trylast=True)  # by then, the processes beside this one are gone
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED or not self.failed:
            return
        hopeless = [f"{test}: {why}" for test, why in self.failed.items() if why]
        if len(self.failed) > AT_MOST:
            hopeless = [f"{len(self.failed)} tests failed, which is more than {AT_MOST}"]
        if hopeless:
            self.told = ["there is none:", *hopeless]
            return
        passed = self._try()
        self.told = [f"{'passed' if passed else 'failed again'}:", *self.failed]
        if passed:
            session.exitstatus = pytest.ExitCode.OK

    def _try(self) -> bool:
        """Whether all of them pass in a process of their own."""
        inifile = ["-c", str(self.config.inipath)] if self.config.inipath else []
        options = ["-p", "no:cacheprovider", "-n", "0", *inifile]
        command = [sys.executable, "-m", "pytest", *options, *self.failed]
        try:
            ended = subprocess.run(
                command, cwd=self.config.rootpath, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.told:
            terminalreporter.section("a second try, with nothing beside it")
            for line in self.told:
                terminalreporter.write_line(line)


def why_not(report: pytest.TestReport) -> str:
    """Why this failure gets no second try; empty where it does."""
    tier = tier_of(report.nodeid)
    if tier not in _TIERS:
        return f"the machine decides nothing in a test of the tier {tier}"
    names_one = _NAMED_AFTER_A_PROMISE.search(report.nodeid)
    if names_one or _TELLS_OF_A_PROMISE.search(report.longreprtext):
        return "its failure tells of a promise"
    if report.when not in _PHASES:
        return "its process ended"
    return ""


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--again") and not is_worker:
        config.pluginmanager.register(SecondTry(config))
