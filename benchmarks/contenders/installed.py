"""Where the contenders' libraries are, and how `make bench-setup` puts them there.

Each has a virtual environment of its own in `.bench/`, so that no lock of this project knows them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkout import ROOT

FOLDER = ROOT / ".bench"
_REQUIREMENTS = Path(__file__).parent / "requirements"
_NPM = {"restate-server": "@restatedev/restate-server@1.7.12"}
"""The programs that come as packages of npm, by the folder of each."""
_PATIENCE = 900.0


class Missing(Exception):
    """A contender cannot be measured, for it is not there or failed; the text says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment; `name` is that of its requirements, too."""

    name: str

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        return FOLDER / self.name

    def python(self) -> Path:
        """Its interpreter. Raises Missing."""
        if not (self.folder / "complete").exists():
            raise Missing(f"{self.name} is not installed; `make bench-setup` installs it")
        return self.folder / "bin" / "python"

    def versions(self) -> dict[str, str]:
        """What is pinned in it, with its version."""
        pinned = (_REQUIREMENTS / f"{self.name}.txt").read_text("utf-8").split()
        return dict(line.split("==") for line in pinned)

    def install(self) -> None:
        """Make it anew. Raises Missing where that fails."""
        if (self.folder / "complete").exists():
            return
        venv.create(self.folder, clear=True, with_pip=True)
        _run(
            [
                *(str(self.folder / "bin" / "python"), "-m", "pip", "install", "--quiet"),
                *("--requirement", str(_REQUIREMENTS / f"{self.name}.txt")),
            ]
        )
        (self.folder / "complete").touch()


ENVIRONMENTS = {
    name: Environment(name) for name in ("dbos", "restate", "procrastinate", "faststream-outbox")
}


def restate_server() -> Path:
    """The program `restate-server`. Raises Missing."""
    packages = FOLDER / "restate-server" / "node_modules" / "@restatedev"
    found = sorted(packages.glob("restate-server-*/bin/restate-server"))
    if not found:
        raise Missing("restate-server is not installed; `make bench-setup` installs it with npm")
    return found[0]


def versions() -> dict[str, str]:
    """The pinned version of each library of a contender."""
    pinned = {name: it for each in ENVIRONMENTS.values() for name, it in each.versions().items()}
    return pinned | {name: package.rpartition("@")[2] for name, package in _NPM.items()}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


def _install_programs() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not on PATH")
    for name, package in _NPM.items():
        if (FOLDER / name / "node_modules").exists():
            continue
        # Scripts of packages may report to others that they were installed.
        folder = str(FOLDER / name)
        _run([npm, "install", "--silent", "--ignore-scripts", "--prefix", folder, package])


def main() -> None:
    """Install all of them; say what is not to be had, and go on."""
    failed = False
    works = {name: it.install for name, it in ENVIRONMENTS.items()}
    for name, install in {**works, "restate-server": _install_programs}.items():
        print(f"{name} ...", flush=True)
        try:
            install()
        except Missing as error:
            failed = True
            print(f"error: {name} could not be installed: {error}", file=sys.stderr)
    if failed:
        print("`make bench` leaves out what is missing, and says so", file=sys.stderr)


if __name__ == "__main__":
    main()
