"""A real Prometheus on loopback, with a folder of its own, for one test alone; and `promtool`."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML comes without types

from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

_ATTEMPTS = 5


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; `.ci/run` installs Debian's package prometheus")
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What `promtool` says. Skips the test where there is none."""
    command = [_program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


class Prometheus:
    """The server, asked over its API."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer."""
        answer = await self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, (path, parameters, answer.text)
        told = answer.json()
        assert told["status"] == "success", told
        return told["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression, now."""
        data = await self.get("query", query=expression)
        found: list[dict[str, Any]] = data["result"]
        return found

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = (await self.get("alerts"))["alerts"]
        return {it["labels"]["alertname"] for it in alerts if it["state"] == "firing"}

    async def known(self) -> set[str]:
        """The names of the metrics that the targets declare."""
        return {it["metric"] for it in await self.get("targets/metadata")}

    async def up(self) -> Mapping[str, str]:
        """How each target is, by its job: `up`, or its error."""
        active = (await self.get("targets"))["activeTargets"]
        return {
            it["labels"]["job"]: it["lastError"] or it["health"]
            for it in active  # one for each job here
        }


def at(configuration: Path, targets: Mapping[str, str], token: Path) -> dict[str, Any]:
    """The configuration of that file, quicker, with these targets in place of those of each job,
    and that file in place of the token's."""
    read: dict[str, Any] = yaml.safe_load(configuration.read_text("utf-8"))
    read["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    read["rule_files"] = [str(configuration.parent / it) for it in read["rule_files"]]
    assert {it["job_name"] for it in read["scrape_configs"]} <= set(targets)
    for job in read["scrape_configs"]:
        job["authorization"]["credentials_file"] = str(token)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    return read


@asynccontextmanager
async def prometheus(
    configuration: Mapping[str, Any], folder: Path, options: Sequence[str] = ()
) -> AsyncIterator[Prometheus]:
    """A Prometheus with that configuration. Skips the test where there is none."""
    program = _program("prometheus")
    folder.mkdir()
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(dict(configuration)), encoding="utf-8")
    for _ in range(_ATTEMPTS):
        port = free_port()
        process = _start(program, folder, port, options)
        try:
            await until(partial(_is_up_or_ended, process, port), what="Prometheus is up")
            if process.poll() is None:
                break
        except BaseException:
            process.kill()
            raise
    else:
        pytest.fail(f"Prometheus did not start: {(folder / 'log').read_text('utf-8')}")
    try:
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=20) as client:

            async def is_ready() -> bool:
                return (await client.get("/-/ready")).status_code == 200

            await until(is_ready, what="Prometheus is ready")
            yield Prometheus(client)
    finally:
        process.kill()  # there is nothing to keep
        await asyncio.to_thread(process.wait, 10)
        guardian().release_process(process.pid)


def _start(
    program: str, folder: Path, port: int, options: Sequence[str]
) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                *options,
            ],
            cwd=folder,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    guardian().entrust_process(process.pid)
    return process


def _is_up_or_ended(process: subprocess.Popen[bytes], port: int) -> bool:
    with socket.socket() as client:
        return process.poll() is not None or client.connect_ex(("127.0.0.1", port)) == 0
