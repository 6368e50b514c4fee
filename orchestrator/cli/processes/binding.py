"""Checks of a service's address: without credentials, only this machine may reach it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

from orchestrator.cli.terminal.errors import CommandError

_WITHOUT = "leave --host out"


def require_loopback(host: str, *, next_step: str = _WITHOUT) -> None:
    """Raises CommandError, which advises `next_step`, where other machines could reach the service,
    since no caller from there could show a credential."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
        why = "others could reach that address, and there is no credential that they could show"
    except ValueError:
        why = "it is a name, and only localhost surely means this machine"
    raise CommandError(f"{host} is refused as the address to listen at", why, next_step)


def require_safe(host: str, *, has_credentials: Callable[[], bool], to_get_one: str) -> None:
    """Raises CommandError where other machines could reach the service, and it has no credentials
    to tell callers apart; `to_get_one` is the command that makes one."""
    try:
        require_loopback(host, next_step=f"{to_get_one}; or leave --host out")
    except CommandError:
        if not host or not has_credentials():
            raise


def require_free(host: str, port: int, option: str) -> None:
    """Raises CommandError, which advises `option`, where another process listens at the port
    already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do, so that the connections of a stopped server do not count.
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
