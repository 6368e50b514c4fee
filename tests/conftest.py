"""What every test can ask for, and what a run says at its end: see `tests.support`."""

from __future__ import annotations

import gc
import os

from tests.support.processes.bytecode import keep_bytecode
from tests.support.processes.scratch import use_memory

pytest_plugins = [
    "tests.support.fixtures",
    "tests.support.repository.reporting",
    "tests.support.repository.quick",
    "tests.support.repository.again",
]

# Before gRPC is there. A process for another user, such as a PostgreSQL, is forked off, and what
# gRPC does in a fork while it is in use would end that process.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Before anything asks for a temporary folder, and before further processes are started.
use_memory()
# Before pytest rewrites the tests, and the modules of the plugins above.
keep_bytecode()


def pytest_collection_finish() -> None:
    """What the collection left behind stays to the end; not looking for garbage in it again and
    again spares a tenth of the run. Looking less often for what tests leave spares some more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
