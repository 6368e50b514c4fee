"""Names of lease holders, from which a process on the same machine can tell a dead holder.

No two holders have the same name, even if their callers give them the same label: two relays that
renewed leases under one name would both hold them, and the order of messages would be lost.

After a crash a lease must run out before other holders may send, since they cannot know whether its
holder is dead or only slow. On the holder's own machine they can know, and need not wait.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

_PROC = Path("/proc")
_NAME = re.compile(
    r".*@(?P<machine>[0-9a-f]{16}):(?P<pid>[0-9]+):(?P<started>[0-9]+):[0-9a-f]{8}", re.DOTALL
)
_LONGEST_LABEL = 40  # a name has room for 100 characters in the tables


class HolderName:
    """The name of one lease holder: the caller's label, then a part that no other holder has.

    That part is made at the first call. A process that was forked off since makes its own: it is
    another holder, with the memory of the first.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._name = ""
        self._made_in: int | None = None

    def __call__(self) -> str:
        """The name, at most 100 characters."""
        process = os.getpid()
        if process != self._made_in:
            self._name, self._made_in = name_of_this_process(self._label), process
        return self._name


def name_of_this_process(
    label: str, entropy: Callable[[int], bytes] = os.urandom, *, proc: Path = _PROC
) -> str:
    """A name for a holder in this process, different at each call."""
    pid = os.getpid()
    machine = _machine(proc) or entropy(8).hex()
    return f"{label[:_LONGEST_LABEL]}@{machine}:{pid}:{_started(pid, proc) or 0}:{entropy(4).hex()}"


def is_surely_dead(name: str, *, proc: Path = _PROC) -> bool:
    """Whether the process that made this name has ended. False where that cannot be told: for a
    name from another machine or container, or on a system without /proc."""
    match = _NAME.fullmatch(name)
    if match is None or match["machine"] != _machine(proc):
        return False
    # The number may have gone to another process; then the time of its start tells.
    return _started(int(match["pid"]), proc) != int(match["started"])


def _machine(proc: Path) -> str | None:
    """An id of this boot of this machine and of its process numbers' namespace."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text()
        numbers = (proc / "self/ns/pid").readlink()
    except OSError:
        return None
    return hashlib.sha256(f"{boot}{numbers}".encode()).hexdigest()[:16]


def _started(pid: int, proc: Path) -> int | None:
    """When that process was started, in clock ticks since the boot; None where there is none."""
    try:
        status = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The program's name stands in parentheses and may hold spaces; what follows does not.
    fields = status.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not read the exit status.
    return None if fields[0] == "Z" else int(fields[19])
