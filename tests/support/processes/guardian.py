"""Ends what a test run started, however that run ends: also when it is killed with SIGKILL.

A small second process waits at a pipe whose other end only the test run holds. When that end closes
(the run is over, crashed or was killed), it ends every process that was entrusted to it and removes
every folder. It works alike on Linux and macOS, and needs nothing but the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

_PATIENCE = 5.0  # seconds from the entrusted signal to SIGKILL


class Guardian:
    """One second process; use the one that `guardian()` gives."""

    def __init__(self) -> None:
        # A session of its own, so that Ctrl-C and the kill of a process group pass it by.
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id of the second process."""
        return self._process.pid

    def entrust_process(self, pid: int, ending: signal.Signals = signal.SIGKILL) -> None:
        """From now on the process gets `ending`, then SIGKILL, once this run is over."""
        self._tell(f"process {pid} {int(ending)} {started(pid)}")

    def entrust_folder(self, path: Path) -> None:
        """From now on the folder is removed, with all that is in it, once this run is over."""
        self._tell(f"folder {path}")

    def release_process(self, pid: int) -> None:
        """The process has ended, and its id may soon be another process's."""
        self._tell(f"released {pid}")

    def dismiss(self) -> None:
        """End and remove everything now. Returns when that is done."""
        if self._process.poll() is None:
            self._process.communicate(timeout=30)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


_guardian: list[Guardian] = []


def guardian() -> Guardian:
    """The guardian of this test run; the first call starts it."""
    if not _guardian:
        _guardian.append(Guardian())
        atexit.register(_guardian[0].dismiss)
    return _guardian[0]


def started(pid: int) -> str:
    """When the process began, in the system's own words; empty where it has ended.

    A process id alone is not enough: the system hands it out again.
    """
    try:
        # The name in parentheses may hold anything; the fields are counted from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        state, beginning = fields[0], fields[19]
        return "" if state == "Z" else beginning
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    told = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


def _watch(lines: TextIO) -> None:
    processes: dict[int, tuple[int, str]] = {}
    folders: list[str] = []
    for line in lines:
        verb, rest = line.rstrip("\n").split(" ", 1)
        if verb == "folder":
            folders.append(rest)
        elif verb == "process":
            pid, ending, beginning = rest.split(" ", 2)
            processes[int(pid)] = (int(ending), beginning)
        else:
            processes.pop(int(rest), None)
    for number, (last_signal, its_beginning) in processes.items():
        _end(number, last_signal, its_beginning)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)


def _end(pid: int, ending: int, beginning: str) -> None:
    for number, patience in ((ending, _PATIENCE), (signal.SIGKILL, 1.0)):
        if not beginning or started(pid) != beginning:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + patience
        while started(pid) == beginning and time.monotonic() < until:
            time.sleep(0.02)  # it is no child of this process, so that it cannot be waited for


if __name__ == "__main__":
    _watch(sys.stdin)
