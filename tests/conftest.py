"""What every test can ask for, and what a run says at its end: see `tests.support`."""

from __future__ import annotations

from tests.support.scratch import use_memory

pytest_plugins = ["tests.support.fixtures", "tests.support.reporting"]

# Before anything asks for a temporary folder, and before further processes are started.
use_memory()
