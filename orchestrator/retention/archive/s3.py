"""An archive in a bucket of an S3-compatible store."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from orchestrator.errors import ArchiveUnavailable, InvalidRetention

_CONNECT_SECONDS = 5
_READ_SECONDS = 20
_TRIES = 3
_ABSENT = ("NoSuchKey", "404")


class Bucket:
    """The files of that bucket, below that prefix. `client` is boto3's for S3: credentials, region
    and endpoint come from where boto3 looks for them."""

    def __init__(self, bucket: str, prefix: str = "", client: Any = None) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._client = _client() if client is None else client

    @property
    def place(self) -> str:
        """As the port's."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, path: str, content: bytes) -> None:
        """As the port's: the store checks the checksum, and what it has is read again."""
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode("ascii")
        self._called(
            "be written",
            path,
            lambda: self._client.put_object(
                Bucket=self._bucket, Key=self._key(path), Body=content, ChecksumSHA256=digest
            ),
        )
        if self.get(path) != content:
            raise ArchiveUnavailable(
                f"{path} in the archive {self.place} is not what was written", retry_after=60
            )

    def get(self, path: str) -> bytes | None:
        """As the port's."""
        found: bytes | None = self._called("be read", path, lambda: self._read(path))
        return found

    def _read(self, path: str) -> bytes | None:
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # it has no types

        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(path))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _ABSENT:
                return None
            raise
        content: bytes = answer["Body"].read()
        return content

    def remove(self, path: str) -> None:
        """As the port's."""
        self._called(
            "be removed",
            path,
            lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(path)),
        )

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _called(self, what: str, path: str, call: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            raise ArchiveUnavailable(
                f"{path} in the archive {self.place} cannot {what}: {error}", retry_after=60
            ) from error


def _client() -> Any:
    try:
        import boto3  # type: ignore[import-untyped]  # it has no types
        from botocore.config import Config  # type: ignore[import-untyped]  # it has no types
    except ImportError as error:
        raise InvalidRetention(
            "an archive in a bucket needs boto3, which is not installed",
            next_step='install it: pip install "sagabox[s3]"',
        ) from error
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"total_max_attempts": _TRIES, "mode": "standard"},
    )
    return boto3.client("s3", config=config)
