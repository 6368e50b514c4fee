"""Following a log that another process appends to."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.processes.logs import Follower, tail


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_only_what_was_written_since_is_given(tmp_path: Path) -> None:
    path = tmp_path / "log"
    _append(path, b"before\n")
    follower = Follower(path)
    _append(path, b"one\ntwo\n")
    assert follower.lines() == ["one", "two"]
    assert follower.lines() == []
    _append(path, b"three\n")
    assert follower.lines() == ["three"]


def test_a_line_is_given_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    assert follower.lines() == []
    _append(path, b"half")
    assert follower.lines() == []
    _append(path, b" and half\r\n")
    assert follower.lines() == ["half and half"]


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    _append(path, b"\xff\xfe\n")
    assert follower.lines() == ["\ufffd\ufffd"]


def test_a_file_that_grew_too_large_is_emptied_when_all_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path, most=10)
    with path.open("ab", buffering=0) as writer:
        writer.write(b"0123456789\n")
        assert follower.lines() == ["0123456789"]
        assert path.stat().st_size == 0
        writer.write(b"more\n")
    assert follower.lines() == ["more"]


def test_a_file_that_another_process_emptied_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    _append(path, b"a long line\n")
    follower.lines()
    path.write_bytes(b"new\n")
    assert follower.lines() == ["new"]


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path) == []
    _append(path, b"".join(b"%d\n" % number for number in range(100_000)))
    assert tail(path, 2) == ["99998", "99999"]
