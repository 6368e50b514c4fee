"""The lock that admits one node on SQLite: whose it is, and when it is free again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.engine.single_node import OnlyNode
from orchestrator.errors import SecondNode
from outbox.tables import DEFAULT_TABLES


def _node(url: str) -> OnlyNode:
    return OnlyNode(create_async_engine(url), DEFAULT_TABLES)


def test_two_ways_to_the_same_file_are_one_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop data.sqlite").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.sqlite").symlink_to(tmp_path / "shop data.sqlite")
    monkeypatch.chdir(tmp_path)
    first = _node(f"sqlite+aiosqlite:///{tmp_path}/shop data.sqlite")
    first.claim()
    for another in (
        f"{tmp_path}/elsewhere/link.sqlite",
        "shop data.sqlite",
        "elsewhere/../shop data.sqlite",
        "file:shop data.sqlite?uri=true",
        f"file:{tmp_path}/shop%2520data.sqlite?mode=rw&uri=true",
        f"file://localhost{tmp_path}/elsewhere/link.sqlite?uri=true",
    ):
        with pytest.raises(SecondNode):
            _node(f"sqlite+aiosqlite:///{another}").claim()
    first.release()
    (tmp_path / "file:shop").touch()
    own, other = _node("sqlite+aiosqlite:///file:shop"), _node("sqlite+aiosqlite:///shop")
    assert own.is_ours()
    assert other.is_ours()
    own.release()
    other.release()


def test_the_lock_ends_with_the_node_although_its_process_was_forked(tmp_path: Path) -> None:
    """Workers of a process pool may outlive a node that is killed."""
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite"
    first, second = _node(url), _node(url)
    first.claim()
    waits, tells = os.pipe()
    forked, tells_parent = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tells_parent, b"forked")
        os.close(tells)
        os.read(waits, 1)
        os._exit(0)
    try:
        os.read(forked, 6)
        assert not second.is_ours(), "the fork has not ended it"
        first.release()
        assert second.is_ours()
    finally:
        for each in (tells, waits, forked, tells_parent):
            os.close(each)
        os.waitpid(child, 0)
        second.release()
