"""A real dnsmasq on loopback, with its names in a file of its own, for one test alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import pytest

from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until


def dnsmasq() -> str:
    """Where it is. Skips the test where there is none."""
    # Debian's is where only administrators look.
    found = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        pytest.skip("dnsmasq is not installed; `.ci/run` installs Debian's package dnsmasq-base")
    return found


@dataclass
class Dnsmasq:
    """The server, which answers for the names in `hosts`."""

    port: int
    hosts: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """As an option of a destination has it."""
        return f"127.0.0.1:{self.port}"

    def say(self, names: Mapping[str, Sequence[str]]) -> None:
        """Answer with these addresses from now."""
        self.hosts.write_text(_lines(names))
        self.process.send_signal(signal.SIGHUP)

    async def answers(self) -> bool:
        """Whether it answers a question."""
        question = dns.message.make_query("up.test", "A")
        try:
            await dns.asyncquery.udp(question, "127.0.0.1", timeout=0.2, port=self.port)
        except (dns.exception.DNSException, OSError):
            return False
        return True


@asynccontextmanager
async def name_server(
    folder: Path, names: Mapping[str, Sequence[str]], options: Sequence[str] = (), ttl: int = 1
) -> AsyncIterator[Dnsmasq]:
    """A dnsmasq that knows these names; `options` are further ones of its command."""
    program, port, hosts = dnsmasq(), free_port(), folder / "hosts"
    hosts.write_text(_lines(names))
    command = [
        program,
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=",
        "--log-facility=-",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=127.0.0.1",
        f"--port={port}",
        f"--addn-hosts={hosts}",
        f"--local-ttl={ttl}",
        "--local=/test/",
        *options,
    ]
    process = _start(command)
    server = Dnsmasq(port, hosts, process)
    try:
        await until(server.answers, what="dnsmasq is up")
        yield server
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        guardian().release_process(process.pid)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    guardian().entrust_process(process.pid)
    return process


def _lines(names: Mapping[str, Sequence[str]]) -> str:
    return "".join(f"{it} {name}\n" for name, found in names.items() for it in found)
