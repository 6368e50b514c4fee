"""The import of the blog and the migrations in this process, for the commands that need them."""

from __future__ import annotations

import os
import sys

from orchestrator import bundled


def put_on_path() -> None:
    """Put the package's own `articles`, `comments` and `migrations` first on the import path,
    before any of that name in the working directory. Raises BundleMissing."""
    folder = str(bundled.directory())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def put_folder_on_path() -> None:
    """Put the working directory on the import path, behind all else, so that a folder there takes
    no package's name from it."""
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
