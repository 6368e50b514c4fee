"""Where a service may listen: at addresses that only this machine reaches."""

from __future__ import annotations

import errno
import ipaddress
import socket

from orchestrator.cli.errors import CommandError


def require_loopback(host: str) -> None:
    """Raises CommandError where others than this machine could reach the service.

    The services do not ask anybody who they are, so nobody else may come that far.
    """
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
        why = "the services know no credentials, and others could reach that address"
    except ValueError:
        why = "it is a name, and only localhost surely means this machine"
    raise CommandError(
        f"{host} is refused as the address to listen at",
        why,
        "leave --host out, and put a proxy that knows who may come in front of 127.0.0.1",
    )


def require_free(host: str, port: int, option: str) -> None:
    """Raises CommandError, which advises `option`, where somebody listens at the port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do, so that what a stopped server left behind does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise CommandError(
                f"port {port} of {host} cannot be used",
                "another program listens there" if taken else str(error),
                f"stop it, or choose another port: {option}",
            ) from error


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
