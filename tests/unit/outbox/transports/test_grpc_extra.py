"""gRPC is an extra: without it everything else works, and an address of it says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from outbox import Service
from outbox.errors import InvalidService
from outbox.transports.http.peers import peers_in

_COMMAND = "pip install 'sagabox[grpc]'"
_WITHOUT = """
import sys
for name in ("grpc", "google.protobuf", "grpc_health", "grpc_reflection"):
    sys.modules[name] = None
import outbox
for name in outbox.__all__:
    getattr(outbox, name)
import orchestrator.app, outbox.chassis.service, outbox.service.service
print("all is there")
"""


def test_without_the_extra_everything_else_can_be_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.stdout == "all is there\n", done.stderr


def test_an_address_of_grpc_is_a_peer_like_others() -> None:
    assert peers_in("a=grpc://127.0.0.1:9001/, b=grpcs://b.example:443") == {
        "a": "grpc://127.0.0.1:9001",
        "b": "grpcs://b.example:443",
    }


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf", "grpc_health", "grpc_reflection"])
def test_without_the_extra_an_address_of_grpc_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match="are not installed") as in_setting:
        peers_in("mail=grpc://127.0.0.1:9001")
    assert _COMMAND in str(in_setting.value)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'stock.sqlite'}")
    with pytest.raises(InvalidService) as in_code:
        Service("stock", engine, peers={"mail": "grpc://127.0.0.1:9001"}, secrets="k1:" + "a" * 43)
    assert _COMMAND in str(in_code.value)
    peers_in("mail=http://127.0.0.1:9001")
