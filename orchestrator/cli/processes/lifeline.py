"""The lifeline of a child process, which ends it when its parent ends in any way.

The child itself asks for that, right after its start. A function between fork and exec would do it
too, but it can block for ever in a parent that has threads.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

VARIABLE = "SAGABOX_PARENT"
"""The environment variable in which a parent leaves its process id for the child."""

_PR_SET_PDEATHSIG = 1
_PAUSE = 0.5  # seconds between two looks, where the system does not tell


def tie_to_parent(environment: Mapping[str, str] = os.environ) -> None:
    """Have this process killed when the parent that the environment names has ended.

    Without such a name nothing happens. On Linux the kernel does it, and "the parent" is the thread
    that started the child; elsewhere a thread looks twice a second.
    """
    named = environment.get(VARIABLE, "")
    if not named.isdigit():
        return
    parent = int(named)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    # The parent may have ended before the kernel was asked.
    if os.getppid() != parent:
        _end()


def _watch(parent: int) -> None:
    # Outside of Linux no signal tells of a parent's end: a thread of its own looks for it.
    while os.getppid() == parent:
        time.sleep(_PAUSE)  # there is nothing to wait on: the parent is no child of ours
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
