"""The released version, installed from a wheel of its commit into a folder of its own.

The dependencies are those of the tests. The commit stands in `tests/compatibility/RELEASED`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkout import ROOT

RELEASED = ROOT / "tests" / "compatibility" / "RELEASED"
"""The file that names the commit of the released version, in full."""

_PATIENCE = 120.0  # seconds for each command


class NoHistory(Exception):
    """The commit cannot be read here, for the reason that the message says."""


@dataclass(frozen=True)
class Release:
    """The released version. `packages` is the folder into which its wheel was installed, `sources`
    has its documentation."""

    commit: str
    packages: Path
    sources: Path

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` for a process that imports the released packages, and those of the blog and the
        migrations that its wheel carries."""
        bundle = self.packages / "orchestrator" / "_bundled"
        return {
            **base,
            "PYTHONPATH": os.pathsep.join([str(self.packages), str(bundle)]),
            "PYTHONSAFEPATH": "1",
        }

    @property
    def reference(self) -> Sequence[str]:
        """The modules that its reference lists: what of it is public."""
        pages = sorted((self.sources / "docs" / "reference" / "api").glob("*.md"))
        found = [re.findall(r"^::: (\S+)$", it.read_text("utf-8"), re.MULTILINE) for it in pages]
        return [module for modules in found for module in modules]


def released_commit() -> str:
    """What the file names. Raises AssertionError where that is no full commit."""
    commit = RELEASED.read_text("utf-8").strip()
    assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{RELEASED} names no commit in full: {commit!r}"
    return commit


def install(commit: str, folder: Path, repository: Path = ROOT) -> Release:
    """The version of that commit, built without a network into `folder`, once for all processes of
    the tests. Raises NoHistory where the commit cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    release = Release(commit, folder / "packages", folder / "sources")
    done = folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not done.exists():
            for left in (release.sources, release.packages):
                shutil.rmtree(left, ignore_errors=True)
            _extract(commit, release.sources, repository)
            _build(release)
            done.touch()
    return release


def _extract(commit: str, into: Path, repository: Path) -> None:
    git = shutil.which("git")
    if git is None:
        raise NoHistory("there is no git, which reads it")
    # Whose folder it is, does not matter: it is only read. A hook of git would name another one.
    command = [git, "-c", f"safe.directory={repository}", "-C", str(repository)]
    environment = {name: it for name, it in os.environ.items() if not name.startswith("GIT_")}
    archive = into.with_suffix(".tar")
    with archive.open("wb") as out:
        made = subprocess.run(
            [*command, "archive", "--format=tar", commit],
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
            timeout=_PATIENCE,
        )
    if made.returncode != 0:
        raise NoHistory(
            f"the history does not hold the released version {commit[:12]} "
            f"({made.stderr.decode('utf-8', 'replace').strip()}); fetch all of it: "
            "git fetch --unshallow"
        )
    with tarfile.open(archive) as files:
        files.extractall(into, filter="data")
    archive.unlink()


def _build(release: Release) -> None:
    wheels = release.sources.with_name("wheels")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], release)
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    # What is imported is compiled then, and the most of it is not.
    options = ["--no-compile", "--disable-pip-version-check", "--target", str(release.packages)]
    _run([*pip, *options, str(wheel)], release)


def _run(command: Sequence[str], release: Release) -> None:
    environment = {name: it for name, it in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        command,
        cwd=release.sources,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    assert made.returncode == 0, f"{' '.join(command)}:\n{made.stdout}{made.stderr}"
