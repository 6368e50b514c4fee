"""What every test can ask for, and what a run says at its end: see `tests.support`."""

from __future__ import annotations

pytest_plugins = ["tests.support.fixtures", "tests.support.reporting"]
