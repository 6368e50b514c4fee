"""Where the processes of a run keep what they have compiled.

Each of them imports some hundred modules, and pytest rewrites those of the tests besides. Where the
environment forbids to write bytecode, every worker, service and mutant would do all that anew.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.checkout import ROOT

FOLDER = ROOT / ".pytest_cache" / "bytecode"
"""Beside no source: what is written here is gone with the other caches."""


def keep_bytecode(folder: Path = FOLDER) -> None:
    """Let this process, and those it starts, keep in that folder what they compile. Where they may
    write bytecode anyway, it stays beside the sources."""
    if not sys.dont_write_bytecode or not os.access(ROOT, os.W_OK):
        return
    # Modules that tests made up in temporary folders never come again.
    shutil.rmtree(_below(folder, Path(tempfile.gettempdir())), ignore_errors=True)
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


def _below(folder: Path, sources: Path) -> Path:
    """Where in the folder Python keeps what it compiled of these sources."""
    return folder / sources.relative_to(sources.anchor)
