"""The secret with which the services of one data folder sign their messages."""

from __future__ import annotations

import base64
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

from orchestrator.cli.terminal.errors import CommandError

_SIZE = 32
_KEY_ID = "local"


def shared_secret(path: Path, entropy: Callable[[int], bytes] = os.urandom) -> str:
    """The secret in the file, as "id:base64"; the first call makes it, for its owner alone.

    Raises CommandError where others may read the file, or it holds no secret.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            text = file.read().strip()
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError:
        return _make(path, entropy)
    if mode & 0o077:
        raise CommandError(
            f"the secret in {path} may be known to others",
            f"the file's mode is {mode:o}, and only its owner may read it",
            shlex.join(["rm", str(path)]),
        )
    if not text.startswith(f"{_KEY_ID}:"):
        raise CommandError(
            f"{path} holds no secret",
            f"it does not begin with {_KEY_ID}:",
            shlex.join(["rm", str(path)]),
        )
    return text


def _make(path: Path, entropy: Callable[[int], bytes]) -> str:
    text = f"{_KEY_ID}:{base64.b64encode(entropy(_SIZE)).decode()}"
    with open(path, "x", encoding="ascii", opener=_private) as file:
        file.write(text + "\n")
    return text


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
