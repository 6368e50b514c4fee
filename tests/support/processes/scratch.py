"""Where tests put their files: in memory, where the machine has room for it.

Every commit on SQLite waits for its disk, and every test on PostgreSQL copies a database. What a
killed process has written stays either way; only a machine that dies forgets, and tests kill none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM = 4 * 1024**3  # bytes


def use_memory() -> None:
    """Let temporary files of this process, and of those it starts, lie in memory. A TMPDIR that
    the caller has set is left alone."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(_MEMORY).free >= _ROOM:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None
