"""Whether what gRPC needs is installed: the extra `sagabox[grpc]`."""

from __future__ import annotations

from importlib.util import find_spec

from outbox.errors import ExtraMissing

_NEEDED = ("grpc", "google.protobuf", "grpc_health", "grpc_reflection")


def require(needed_for: str) -> None:
    """Raises ExtraMissing where it is not; `needed_for` says what asks for it."""
    if not all(map(_is_there, _NEEDED)):
        raise ExtraMissing("grpc", needed_for)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
