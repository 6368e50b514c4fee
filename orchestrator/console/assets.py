"""The console's files, read once, with the headers of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
VENDOR = FOLDER / "vendor"

MEDIA_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
"""The suffixes that are served, with their types. Licences and notes travel with the package and
are not served."""

ASK_EACH_TIME = "no-cache"
"""For the console's own files: keep them, and ask each time whether they have changed."""
KEEP = "public, max-age=31536000, immutable"
"""For vendored files, whose address names their version."""


@dataclass(frozen=True)
class Asset:
    """One file. `etag` changes with its content."""

    content: bytes
    media_type: str
    etag: str
    cache_control: str


def load() -> Mapping[str, Asset]:
    """The files by their path below `FOLDER`, with forward slashes."""
    return {
        path.relative_to(FOLDER).as_posix(): _read(path)
        for path in sorted(FOLDER.rglob("*"))
        if path.is_file() and path.suffix in MEDIA_TYPES
    }


def at_depth(page: Asset, depth: int) -> Asset:
    """The page for an address that is so many parts longer than /console."""
    content = page.content.replace(b'="console/', b'="' + b"../" * depth + b"console/")
    return replace(page, content=content, etag=_etag(content))


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(
        content=content,
        media_type=MEDIA_TYPES[path.suffix],
        etag=_etag(content),
        cache_control=KEEP if path.is_relative_to(VENDOR) else ASK_EACH_TIME,
    )


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'
