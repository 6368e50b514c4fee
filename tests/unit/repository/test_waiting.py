"""Waits are bounded, and a failed one says what was waited for."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes.waiting import BUSY, free_port, until, wait_until


def test_a_wait_ends_as_soon_as_the_predicate_is_true() -> None:
    looks = iter([False, False, True])
    wait_until(lambda: next(looks))
    with pytest.raises(StopIteration):
        next(looks)


def test_a_wait_in_vain_fails_and_names_what_was_waited_for() -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"the moon: not within 0\.15 s"):
        wait_until(lambda: False, deadline=0.05, what="the moon")
    assert time.monotonic() - began >= 0.05 * BUSY


async def test_an_asynchronous_wait_lets_the_loop_run_on() -> None:
    arrived = asyncio.Event()
    asyncio.get_running_loop().call_soon(arrived.set)
    await until(arrived.is_set)


async def test_an_asynchronous_wait_takes_a_coroutine_as_predicate() -> None:
    looks = iter([False, True])

    async def look() -> bool:
        return next(looks)

    await until(look)


async def test_an_asynchronous_wait_in_vain_fails_too() -> None:
    with pytest.raises(AssertionError, match="not within"):
        await until(lambda: False, deadline=0.05)


def test_free_ports_differ_and_can_be_listened_at() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for port in ports:
        with socket.socket() as server:
            # As servers do: what a connection left behind for a minute does not hinder them.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))


def test_no_client_is_given_a_free_port() -> None:
    first_for_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < first_for_clients


def test_no_other_process_is_given_a_port_of_this_one() -> None:
    """A server that a test has killed must find its port free when it starts again."""
    ours = free_port()
    command = f"import tests.support.processes.waiting as it; print(it._is_ours({ours}))"
    asked = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=30
    )
    assert asked.stdout == "False\n"


def test_free_ports_in_a_row_are_all_of_this_process() -> None:
    first = free_port(in_a_row=3)
    assert free_port() > first + 2
