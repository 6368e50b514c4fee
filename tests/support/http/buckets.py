"""A store for buckets, as S3 has it, on a loopback port of the test's process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

REGION = "eu-central-1"


@dataclass
class S3:
    """The store at that address, and a client for it."""

    url: str
    client: Any
    _numbers: Iterator[int] = field(default_factory=count)

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"archive-{next(self._numbers)}"
        self.client.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        return name

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which boto3 finds the store."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server() -> Iterator[S3]:
    """A store that is empty."""
    import boto3  # type: ignore[import-untyped]  # it ships no types
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        yield S3(url, client)
    finally:
        server.stop()
