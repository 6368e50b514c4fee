"""Makes the blog and the migrations importable in this process. No other command needs them."""

from __future__ import annotations

import sys

from orchestrator import bundled


def put_on_path() -> None:
    """From now on `articles`, `comments` and `migrations` are those that travel with this package,
    also where the working directory has some of the same name. Raises BundleMissing."""
    folder = str(bundled.directory())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
