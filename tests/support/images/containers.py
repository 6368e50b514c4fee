"""Processes with an image as their root, as a container engine runs them: as the image's user, as
process 1, with a root that is only read, and without any right of the system's administrator.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.support.images.dockerfile import Metadata
from tests.support.processes.guardian import guardian

_PROGRAMS = ("chroot", "mount", "nsenter", "setpriv", "unshare")
_SPACES = ("--mount", "--pid", "--fork", "--kill-child", "--propagation=private")
_RIGHTS = "-all,+sys_chroot,+setuid,+setgid"
"""Of the system's rights, what the way into the root needs; the change of the user ends them."""

_ENTER = """
set -eu
root=$1 access=$2; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 none "$root/dev"
for name in null random urandom zero; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mount -t tmpfs -o mode=1777,nosuid,nodev,noexec none "$root/tmp"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
done
shift
mount -o "remount,bind,$access" "$root"
exec "$@"
"""

_RAISE_LOOPBACK = """
import fcntl, socket, struct, sys
SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", UP_AND_RUNNING))
print("up", flush=True)
sys.stdin.read()
"""


def require_namespaces() -> None:
    """Skips the test where this user may make no namespaces."""
    if os.geteuid() != 0:
        pytest.skip("a root of one's own takes the rights of root: run the tests as root")
    missing = [it for it in _PROGRAMS if _where(it) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed; Debian has them in util-linux and mount")
    tried = subprocess.run(
        [_at("unshare"), *_SPACES, "--net", _at("mount"), "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"no namespaces can be made here: {tried.stderr.strip()}")


@contextmanager
def network() -> Iterator[Path]:
    """A network of its own that has a loopback only; the file that stands for it."""
    holder = subprocess.Popen(
        [_at("unshare"), "--net", sys.executable, "-I", "-c", _RAISE_LOOPBACK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    guardian().entrust_process(holder.pid)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        yield Path(f"/proc/{holder.pid}/ns/net")
    finally:
        holder.communicate(timeout=10)
        guardian().release_process(holder.pid)


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine that is seen at a path of the root."""

    source: Path
    path: str
    read_only: bool = False


@dataclass(frozen=True)
class Ended:
    """How a process ended, and all that it printed."""

    code: int
    out: str
    err: str


class Container:
    """A started process. Use `start` or `run`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text("utf-8", "replace")

    def is_up(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to process 1."""
        (first,) = psutil.Process(self._process.pid).children()
        first.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code, negative after a signal. Raises TimeoutExpired."""
        code = self._process.wait(seconds)
        guardian().release_process(self._process.pid)
        return code

    def kill(self) -> None:
        """End it and all that is in it."""
        if self.is_up():
            self._process.kill()
            self.wait(10)


@dataclass(frozen=True)
class Place:
    """Where and how the processes of an image run."""

    root: Path
    says: Metadata
    mounts: Sequence[Mount] = ()
    network: Path | None = None
    is_read_only: bool = True

    def run(
        self,
        *words: str,
        entrypoint: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 120,
    ) -> Ended:
        """Run a command to its end."""
        line = self._line(words, entrypoint, environment or {})
        ran = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        return Ended(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    def start(self, *words: str, environment: Mapping[str, str], log: Path) -> Container:
        """Start a command."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                self._line(words, None, environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guardian().entrust_process(process.pid)
        return Container(process, log)

    def _line(
        self, words: Sequence[str], entrypoint: Sequence[str] | None, extra: Mapping[str, str]
    ) -> Sequence[str]:
        command = [*(self.says.entrypoint if entrypoint is None else entrypoint), *words]
        variables = {**self.says.environment, **extra}
        return [
            *([_at("nsenter"), f"--net={self.network}"] if self.network else []),
            *(_at("unshare"), *_SPACES, "--"),
            *(
                "/bin/sh",
                "-c",
                _ENTER,
                "enter",
                str(self.root),
                "ro" if self.is_read_only else "rw",
            ),
            *(word for it in self.mounts for word in _mounted(it)),
            *("--", _at("env"), "-i", *(f"{name}={value}" for name, value in variables.items())),
            *self._as_user(),
            *("/bin/sh", "-c", 'cd "$0" && exec "$@"', self.says.folder, *command),
        ]

    def _as_user(self) -> Sequence[str]:
        enter = (_at("chroot"), f"--userspec={self.says.user}", "--groups=", str(self.root))
        if self.says.user == "0:0":
            return enter
        return (_at("setpriv"), "--no-new-privs", "--bounding-set", _RIGHTS, *enter)


def _mounted(mount: Mount) -> Sequence[str]:
    return (str(mount.source), mount.path, "ro" if mount.read_only else "rw")


def _where(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _at(program: str) -> str:
    found = _where(program)
    assert found is not None, f"{program} is not installed"
    return found
