"""An archive in a folder of a file system."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import ArchiveUnavailable
from outbox.crashpoints import crashpoint

FILE_MODE, FOLDER_MODE = 0o640, 0o750
"""Not for other users: runs may have secrets. The umask may take the group out, too."""


class Folder:
    """The files below that folder, which is made where it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> str:
        """As the port's."""
        return str(self._root)

    def put(self, path: str, content: bytes) -> None:
        """As the port's: written beside its place, flushed to the disk, then given its name."""
        target = self._root / path
        unfinished = target.with_name(f".{target.name}.part")
        try:
            made = self._made(target.parent)
            with open(unfinished, "wb", opener=_opened) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            crashpoint("retention: file written, before its name")
            unfinished.replace(target)
            # Also those that another process made, and died before it flushed the ones above them.
            below = [it for it in target.parents if it.is_relative_to(self._root)]
            for folder in dict.fromkeys((*below, *made)):
                _flush(folder)
        except OSError as error:
            raise self._unavailable(f"{path} cannot be written", error) from error

    def get(self, path: str) -> bytes | None:
        """As the port's."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(f"{path} cannot be read", error) from error

    def remove(self, path: str) -> None:
        """As the port's; with what was left of writing it."""
        target = self._root / path
        try:
            target.with_name(f".{target.name}.part").unlink(missing_ok=True)
            target.unlink(missing_ok=True)
        except OSError as error:
            raise self._unavailable(f"{path} cannot be removed", error) from error

    def _made(self, folder: Path) -> list[Path]:
        """Make the folder; returns those whose entries are new."""
        missing = [it for it in (folder, *folder.parents) if not it.exists()]
        for it in reversed(missing):
            it.mkdir(FOLDER_MODE, exist_ok=True)
        return [it.parent for it in missing]

    def _unavailable(self, what: str, error: OSError) -> ArchiveUnavailable:
        return ArchiveUnavailable(
            f"{what} in the archive {self.place}: {error.strerror or error}", retry_after=60
        )


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
