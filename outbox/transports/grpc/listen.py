"""Where a service is to listen for gRPC. It needs none of gRPC's own libraries."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from outbox.errors import InvalidService

PORT = "SAGABOX_GRPC_PORT"
HOST = "SAGABOX_GRPC_HOST"
CERTIFICATE = "SAGABOX_GRPC_CERTIFICATE"
KEY = "SAGABOX_GRPC_KEY"


@dataclass(frozen=True)
class GrpcListen:
    """A port of a host, and the files (PEM) with the certificate chain and the private key where
    the server is to take only TLS. Raises InvalidService where only one of the two is given."""

    port: int
    host: str = "127.0.0.1"
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            raise InvalidService(
                "for gRPC with TLS there is a certificate without its key, or a key alone",
                next_step=f"give both: {CERTIFICATE} and {KEY}",
            )

    @classmethod
    def of_environment(cls) -> GrpcListen | None:
        """What the environment says; None where it names no port. Raises InvalidService."""
        port = os.environ.get(PORT)
        if not port:
            return None
        if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
            raise InvalidService(
                f"{PORT} is {port!r}, and no port",
                next_step="give a number from 1 to 65535, or leave it out for no gRPC",
            )
        certificate, key = os.environ.get(CERTIFICATE), os.environ.get(KEY)
        return cls(
            int(port),
            os.environ.get(HOST) or cls.host,
            Path(certificate) if certificate else None,
            Path(key) if key else None,
        )
