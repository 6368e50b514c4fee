"""Where something is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.databases.databases import Database, Schema


@dataclass(frozen=True)
class Place:
    """One kind of database. `url` is that of a database for the taking, `fresh` makes others;
    logs go into `folder`."""

    name: str
    url: str
    fresh: Callable[[Schema], Database]
    folder: Path
