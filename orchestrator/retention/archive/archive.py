"""An archive: files of a storage, each with a manifest that says what is in it.

A file is there once its manifest is: that one is written last, and has the checksum of the file. So
whatever a process left when it died, is either whole or known to be nothing.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import orjson

from orchestrator.errors import ArchiveUnavailable, InvalidRetention
from orchestrator.retention.archive.folder import Folder
from orchestrator.retention.archive.formats import FORMATS, Format, format_named, format_of
from orchestrator.retention.archive.lines import FORMAT, Item
from orchestrator.retention.archive.port import Storage
from orchestrator.retention.archive.s3 import Bucket
from outbox.crashpoints import crashpoint

_REMEMBERED = 64
_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
_MANIFEST = ".manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What is in a file: `items` are the ids of its runs or dead letters with their revisions, and
    `also` other ids, each with that of its run. `file` is the file's path, `sha256` its checksum in
    hexadecimal digits, `bytes` its size."""

    format: int
    kind: str
    file: str
    sha256: str
    bytes: int
    made_at: str
    items: dict[str, int]
    also: dict[str, str]

    def run_of(self, id: str) -> str | None:
        """The id of the item that is known by that id; None where it is not in the file."""
        return id if id in self.items else self.also.get(id)


NONE = "none"
"""What a setting has in place of an archive where all that is old is to be removed for good."""


class Archive:
    """The archive in a storage. `format` is that of new files; older ones are read by their own.
    Its methods block, may be called by several threads at once, and raise ArchiveUnavailable."""

    def __init__(self, storage: Storage, format: Format) -> None:
        self._storage = storage
        self._format = format
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """The place of the storage."""
        return self._storage.place

    def path(self, kind: str, id: str, at: datetime) -> str:
        """The path of a new file, without its ending."""
        return f"{kind}/{at:%Y/%m/%d}/{id}"

    def write(self, kind: str, path: str, items: Sequence[Item], at: datetime) -> Manifest:
        """Write a file with its manifest. When this returns both are there whole."""
        content = self._format.write(items)
        file = f"{path}.{self._format.ending}"
        manifest = Manifest(
            format=FORMAT,
            kind=kind,
            file=file,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            made_at=at.isoformat(),
            items={it.id: it.revision for it in items},
            also={other: it.id for it in items for other in it.also},
        )
        self._storage.put(file, content)
        crashpoint("retention: file written, before its manifest")
        self._storage.put(path + _MANIFEST, orjson.dumps(asdict(manifest)))
        return manifest

    def manifest(self, path: str) -> Manifest | None:
        """The manifest of that file; None where the file was not finished."""
        with self._lock:
            if path in self._manifests:
                self._manifests.move_to_end(path)
                return self._manifests[path]
        try:
            return self._read(path)
        except ValueError as error:
            raise ArchiveUnavailable(
                f"the manifest of {path} in the archive {self.place} is broken: {error}"
            ) from error

    def _read(self, path: str) -> Manifest | None:
        """The manifest in the storage. Raises ValueError where it is torn."""
        content = self._storage.get(path + _MANIFEST)
        if content is None:
            return None
        manifest = _manifest(content)
        with self._lock:
            self._manifests[path] = manifest
            if len(self._manifests) > _REMEMBERED:
                self._manifests.popitem(last=False)
        return manifest

    def has(self, path: str) -> bool:
        """Whether the storage has the manifest of that file now."""
        return self._storage.get(path + _MANIFEST) is not None

    def whole(self, path: str) -> Manifest | None:
        """The manifest of that file, where both are there and fit each other."""
        try:
            manifest = self._read(path)
        except ValueError:
            return None
        if manifest is None:
            return None
        content = self._storage.get(manifest.file)
        return manifest if content is not None and _fits(manifest, content) else None

    def line(self, manifest: Manifest, id: str) -> bytes:
        """The line of an item of that file."""
        content = self._storage.get(manifest.file)
        if content is None or not _fits(manifest, content):
            why = "is missing" if content is None else "has another checksum than its manifest says"
            raise ArchiveUnavailable(f"{manifest.file} in the archive {self.place} {why}")
        try:
            line = format_of(manifest.file).read(content, id)
        except ValueError as error:
            raise ArchiveUnavailable(f"{manifest.file} cannot be read: {error}") from error
        if line is None:
            raise ArchiveUnavailable(f"{manifest.file} lacks {id}, which its manifest names")
        return line

    def discard(self, path: str) -> None:
        """Remove what there is of that file; its manifest first, so that it counts no more."""
        with self._lock:
            self._manifests.pop(path, None)
        self._storage.remove(path + _MANIFEST)
        for form in FORMATS.values():
            self._storage.remove(f"{path}.{form.ending}")


def archive_at(text: str, format: str = "jsonl") -> Archive | None:
    """The archive that a setting names: a folder by its absolute path, or s3://bucket/prefix; None
    for an empty one and for NONE. Raises InvalidRetention."""
    if text in ("", NONE):
        return None
    return Archive(_storage(text), format_named(format))


def check_archive(text: str) -> None:
    """Raises InvalidRetention where that setting names no archive. Nothing is opened."""
    if text not in ("", NONE):
        _parts(text)


def _storage(text: str) -> Storage:
    scheme, bucket, path = _parts(text)
    return Bucket(bucket, path) if scheme == "s3" else Folder(Path(path))


def _parts(text: str) -> tuple[str, str, str]:
    if Path(text).is_absolute():
        return "folder", "", text
    scheme, is_address, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    is_bucket = _BUCKET.fullmatch(bucket) is not None
    if "@" in rest and not is_bucket:
        # What stands before it may be a secret, so none of it is shown.
        raise InvalidRetention(
            f"an address of an archive that begins with {scheme[:20]}:// has a user or a secret",
            next_step="take them out: a bucket's client reads AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    if scheme.lower() != "s3" or not is_address or not bucket:
        raise InvalidRetention(
            f"{text.rpartition('@')[2]!r} is no place for an archive",
            next_step=f"give a folder by its absolute path, or s3://bucket/prefix, or {NONE}",
        )
    if not is_bucket:
        raise InvalidRetention(
            f"{bucket!r} in {text!r} is no name of a bucket",
            next_step="write s3://bucket/prefix; the address of a store is AWS_ENDPOINT_URL_S3",
        )
    if odd := sorted(set(prefix) & set("?#")):
        raise InvalidRetention(
            f"{text!r} has {' and '.join(odd)} in it, and an archive has no options",
            next_step=f"leave out what follows: s3://{bucket}/{re.split('[?#]', prefix)[0]}",
        )
    return "s3", bucket, prefix


def _manifest(content: bytes) -> Manifest:
    """The manifest of that content; what newer code added is left out. Raises ValueError."""
    told = orjson.loads(content)
    if not isinstance(told, dict):
        raise ValueError("it is no object of JSON")
    missing = [it for it in _FIELDS if it not in told]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return Manifest(**{name: told[name] for name in _FIELDS})


_FIELDS = tuple(it.name for it in fields(Manifest))


def _fits(manifest: Manifest, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == manifest.sha256
