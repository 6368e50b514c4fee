"""Whether the process behind a relay's name is known to be dead."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from outbox.coordination.owners import HolderName, is_surely_dead, name_of_this_process

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/ns/pid").is_symlink(), reason="needs /proc, which only Linux has"
)

_CHILD = (
    "from outbox.coordination.owners import name_of_this_process as n; "
    "print(n('x'), flush=True); input()"
)

_FORK = """
import os
from outbox.coordination.owners import HolderName
name = HolderName("x")
print(name(), flush=True)
child = os.fork()
print(name(), flush=True) if child == 0 else os.waitpid(child, 0)
if child:
    print(name(), flush=True)
"""
_PID = re.compile("@[0-9a-f]{16}:([0-9]+):")


def test_a_living_process_is_not_dead_and_a_killed_one_is() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert not is_surely_dead(name)
        child.kill()
        child.wait()
        assert is_surely_dead(name)


def test_names_differ_and_their_own_process_lives() -> None:
    first, second = name_of_this_process("articles"), name_of_this_process("articles")
    assert first != second
    assert len(first) <= 100
    assert not is_surely_dead(first)


def test_a_holder_has_one_name_which_no_other_holder_of_its_label_has() -> None:
    first, second = HolderName("orders"), HolderName("orders")
    assert first() == first() != second()
    assert first().startswith("orders@")
    assert not is_surely_dead(first())


@pytest.mark.parametrize("label", ["", "a@b:c", "two\nlines", "x" * 500])
def test_any_label_gives_a_name_that_fits_and_tells_whose_it_is(label: str) -> None:
    name = HolderName(label)()
    assert name.startswith(f"{label[:40]}@")
    assert len(name) <= 100
    assert not is_surely_dead(name)
    assert is_surely_dead(re.sub(r":([0-9]+):([0-9a-f]{8})$", r":1:\2", name))


def test_a_holder_in_a_forked_process_has_another_name() -> None:
    run = [sys.executable, "-c", _FORK]
    told = subprocess.run(run, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    before, child, after = told.splitlines()
    assert before == after != child
    assert _PID.findall(before) != _PID.findall(child)


def test_a_process_number_that_was_given_to_another_process_does_not_hide_the_death() -> None:
    name = name_of_this_process("articles")
    earlier = re.sub(r":([0-9]+):([0-9a-f]{8})$", r":1:\2", name)
    assert is_surely_dead(earlier)


def test_nothing_is_said_of_other_machines_and_of_other_names() -> None:
    name = name_of_this_process("articles")
    elsewhere = re.sub("@[0-9a-f]{16}:[0-9]+", "@" + "0" * 16 + ":999999999", name)
    assert not is_surely_dead(elsewhere)
    assert not is_surely_dead("relay-1")


def test_without_proc_nothing_is_said(tmp_path: Path) -> None:
    assert not is_surely_dead(name_of_this_process("articles", proc=tmp_path), proc=tmp_path)
