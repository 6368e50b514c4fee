"""A log file that another process appends to: its newest lines, and a bound on its size."""

from __future__ import annotations

import os
from pathlib import Path

_MOST = 16 * 1024 * 1024
_BLOCK = 1024 * 1024


class Follower:
    """A follower of the lines that are written to `path` after it was made.

    The file may not be there yet. The writer must append (O_APPEND): once all is read and the file
    is larger than `most` bytes, it is emptied in place.
    """

    def __init__(self, path: Path, most: int = _MOST) -> None:
        self._path = path
        self._most = most
        self._read = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def lines(self) -> list[str]:
        """The complete lines that are new, without their ends."""
        data = self._rest + self._new()
        *lines, self._rest = data.split(b"\n")
        if len(self._rest) > _BLOCK:
            lines, self._rest = [*lines, self._rest], b""
        return [it.decode("utf-8", "replace").rstrip("\r") for it in lines]

    def _new(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._read:  # another process has emptied it
                    self._read = 0
                file.seek(self._read)
                data = file.read(_BLOCK)
        except FileNotFoundError:
            return b""
        self._read += len(data)
        if self._read >= size > self._most:
            os.truncate(self._path, 0)
            self._read = 0
        return data


def tail(path: Path, count: int = 10) -> list[str]:
    """The last lines of the file, at most `count`; none where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _BLOCK // 16))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
