"""A real nginx on loopback, with a folder and a configuration of its own, for one test alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.checkout import CERTIFICATE
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_ATTEMPTS = 5


@dataclass(frozen=True)
class Passing:
    """How requests are passed on: the lines beside `proxy_pass`, whether callers speak TLS, and
    whether the connections to the services are kept."""

    lines: tuple[str, ...] = ()
    tls: bool = False
    kept: bool = False
    prefix: str = ""
    """What the paths of callers begin with, such as `/shop`; the services do not see it..."""
    keeps_prefix: bool = False
    """...unless it is kept."""


def nginx() -> str:
    """Where it is. Skips the test where there is none."""
    # Debian's is where only administrators look.
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed; `.ci/run` installs Debian's package nginx-light")
    return found


def client_context() -> ssl.SSLContext:
    """What a caller has to know of it to speak TLS with it."""
    return ssl.create_default_context(cafile=CERTIFICATE)


@asynccontextmanager
async def passing_on(
    services: Mapping[str, str], folder: Path, passing: Passing
) -> AsyncIterator[Mapping[str, str]]:
    """An nginx in front of the services with these addresses; gives the address before each."""
    program = nginx()
    folder.mkdir()
    for _ in range(_ATTEMPTS):
        ports = {name: free_port() for name in services}
        process = _start(program, folder, _configuration(services, ports, passing))
        try:
            await until(partial(_is_up_or_ended, process, ports.values()), what="nginx is up")
            if process.poll() is None:
                break
        except BaseException:
            process.kill()
            raise
    else:
        pytest.fail(f"nginx did not start: {(folder / 'errors').read_text('utf-8')}")
    scheme = "https" if passing.tls else "http"
    try:
        yield {name: f"{scheme}://127.0.0.1:{port}" for name, port in ports.items()}
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        guardian().release_process(process.pid)


@asynccontextmanager
async def fronting(text: str, ports: Iterable[int], folder: Path) -> AsyncIterator[None]:
    """An nginx with this text in its context `http`, which listens at these ports."""
    program, listened = nginx(), [*ports]
    folder.mkdir()
    process = _start(program, folder, _around(text))
    try:
        await until(partial(_is_up_or_ended, process, listened), what="nginx is up")
        if process.poll() is not None:
            pytest.fail(f"nginx did not start: {(folder / 'errors').read_text('utf-8')}")
        yield
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        guardian().release_process(process.pid)


def _start(program: str, folder: Path, configuration: str) -> subprocess.Popen[bytes]:
    path = folder / "nginx.conf"
    path.write_text(configuration, encoding="ascii")
    process = subprocess.Popen(
        [program, "-p", str(folder), "-e", "errors", "-c", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    guardian().entrust_process(process.pid)
    return process


def _is_up_or_ended(process: subprocess.Popen[bytes], ports: Iterable[int]) -> bool:
    return process.poll() is not None or _listens(ports)


def _listens(ports: Iterable[int]) -> bool:
    for port in ports:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) != 0:
                return False
    return True


def _configuration(services: Mapping[str, str], ports: Mapping[str, int], passing: Passing) -> str:
    servers = "\n".join(_server(name, services[name], ports[name], passing) for name in services)
    return _around(f"access_log off;\n{servers}")


def _around(text: str) -> str:
    own = "\n".join(f"  {name}_temp_path {name};" for name in _TEMPORARY)
    return f"""\
daemon off;
master_process off;
pid pid;
error_log errors;
events {{ worker_connections 256; }}
http {{
{own}
{text}
}}
"""


def _server(name: str, url: str, port: int, passing: Passing) -> str:
    behind = urlsplit(url).netloc
    tls = f" ssl; ssl_certificate {CERTIFICATE}; ssl_certificate_key {CERTIFICATE};"
    lines = [*passing.lines]
    # A path after the name takes the place of what the location names.
    path = "/" if passing.prefix and not passing.keeps_prefix else ""
    upstream = ""
    if passing.kept:
        upstream = f"  upstream {name} {{ server {behind}; keepalive 4; }}\n"
        behind = name
        lines += ["proxy_http_version 1.1;", 'proxy_set_header Connection "";']
    return (
        f"{upstream}  server {{ listen 127.0.0.1:{port}{tls if passing.tls else ';'}\n"
        f"    location {passing.prefix}/ {{ proxy_pass http://{behind}{path}; "
        f"{' '.join(lines)} }}\n  }}"
    )
