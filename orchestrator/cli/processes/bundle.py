"""The import of the blog and the migrations in this process, for the commands that need them."""

from __future__ import annotations

import sys

from orchestrator import bundled


def put_on_path() -> None:
    """Put the package's own `articles`, `comments` and `migrations` first on the import path,
    before any of that name in the working directory. Raises BundleMissing."""
    folder = str(bundled.directory())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
