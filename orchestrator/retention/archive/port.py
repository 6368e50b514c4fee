"""The port to where the archive's files are kept."""

from __future__ import annotations

from typing import Protocol


class Storage(Protocol):
    """A place for files. Its methods block; each raises ArchiveUnavailable where the place cannot
    be used."""

    @property
    def place(self) -> str:
        """The place, in a form that people and `archive_at` understand; without secrets."""

    def put(self, path: str, content: bytes) -> None:
        """Keep that file. When this returns, it is there whole, whatever happens to the machine
        that wrote it; before that it may be there in part under this name nowhere."""

    def get(self, path: str) -> bytes | None:
        """The content of that file; None where there is none."""

    def remove(self, path: str) -> None:
        """Remove that file, if it is there."""
