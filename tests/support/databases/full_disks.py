"""A small disk of a test's own, which can be filled and freed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.databases import binaries

_SIZE = "96m"
_CHUNK = 8192


@dataclass(frozen=True)
class SmallDisk:
    """`folder` belongs to whom PostgreSQL runs as."""

    folder: Path
    _ballast: Path

    def fill(self) -> None:
        """Take all room that is left."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * _CHUNK)
            except OSError:
                pass

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A disk in memory. Skips the test where nothing may be mounted."""
    user = binaries.ordinary_user()
    place = Path("/tmp") / f"sagabox-disk-{os.getpid()}" if user else folder / "disk"
    place.mkdir(parents=True)
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0755", "none", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip(f"no disk can be mounted for a test: {mounted.stderr.strip()}")
        inner = place / "tables"
        inner.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(inner, user)
        yield SmallDisk(inner, place / "ballast")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
        place.rmdir()
