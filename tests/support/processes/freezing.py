"""Processes that stand still, as after SIGSTOP by hand or on a machine that is suspended."""

from __future__ import annotations

import os
import signal


def freeze(pid: int) -> None:
    """Let this child stand still. It returns when no thread of it runs any more: a thread could
    give an answer yet after the signal was sent."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
