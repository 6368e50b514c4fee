"""The blog and the migrations, which travel inside the wheel without being installed as packages.

A user's own `articles/` or `migrations/` must never clash with them: they are importable only in
processes that were given their folder, and there they come first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from outbox.errors import OutboxError

PACKAGES = ("articles", "comments", "migrations")
"""The packages in `directory()`."""

_HERE = Path(__file__).resolve().parent


class BundleMissing(OutboxError):
    """The blog and the migrations are neither in the installed package nor beside it."""


def directory() -> Path:
    """The folder that has to be put first on the path to import the blog and the migrations.

    In an installed wheel it lies within this package, in a checkout it is the repository's root.
    Raises BundleMissing where the installation is incomplete.
    """
    return _first_complete(_HERE / "_bundled", _HERE.parent)


def child_environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process that imports the blog and the migrations.

    `base` with `directory()` first on PYTHONPATH. PYTHONSAFEPATH keeps Python from putting the
    working directory before it, where a user's own `articles/` may stand. Raises BundleMissing.
    """
    first = str(directory())
    others = [it for it in base.get("PYTHONPATH", "").split(os.pathsep) if it and it != first]
    return {
        **base,
        "PYTHONPATH": os.pathsep.join([first, *others]),
        "PYTHONSAFEPATH": "1",
    }


def _first_complete(*folders: Path) -> Path:
    for folder in folders:
        if all((folder / package / "__init__.py").is_file() for package in PACKAGES):
            return folder
    raise BundleMissing(
        f"{', '.join(PACKAGES)} are missing from {folders[0]}",
        next_step="reinstall it: pip install --force-reinstall sagabox",
    )
