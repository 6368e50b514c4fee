"""Free ports: those that no server listens at, and that no client is given by the system."""

from __future__ import annotations

import socket

import pytest

from orchestrator.cli.processes import ports
from orchestrator.cli.processes.ports import free_ports
from orchestrator.cli.terminal.errors import CommandError


def test_a_port_at_which_a_server_listens_is_left_out() -> None:
    first, second = free_ports(2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        listener.listen()
        assert first not in free_ports(2)
        assert second in free_ports(2)


def test_another_spread_looks_elsewhere_and_stays_below_the_ports_of_clients() -> None:
    found = [port for spread in (0, 1, 9_999, 123_456) for port in free_ports(3, spread=spread)]
    assert len(set(found)) == len(found)
    assert all(20_000 <= port < 30_000 for port in found)


def test_where_there_are_too_few_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_PORTS", 2)
    with pytest.raises(CommandError, match="there are not 3 free ports"):
        free_ports(3)
