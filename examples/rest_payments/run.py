"""Runs an orchestrator and two plain HTTP services, and sells three times: once as it should be,
once with a parcel that is refused, and once with a charge whose answer is lost."""

import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import randrange
from typing import Any

import httpx

PATIENCE = 60.0  # seconds for each thing that is waited for; a machine may have much else to do
SAGABOX = str(Path(sys.executable).with_name("sagabox"))
UVICORN = [sys.executable, "-m", "uvicorn"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as at:
        sell(at, "COMPLETED", order="o-1", card="1234", cents=40_00, kilos=2)
        sell(at, "COMPENSATED", order="o-2", card="1234", cents=80_00, kilos=40)
        sell(at, "COMPLETED", order="o-3", card="4000", cents=20_00, kilos=1)
        charges = call("GET", f"{at['payments']}/total")["charges"]
        print(f"{charges} charges are left")
        check(charges == 2, "that are not the first and the last sale")


def sell(at: dict[str, str], expected: str, **sale: Any) -> None:
    run = call("POST", f"{at['orchestrator']}/sagas/sell", sale)["id"]
    url = f"{at['orchestrator']}/sagas/{run}"
    until(lambda: call("GET", url)["ended_at"], f"the end of {sale['order']}")
    found = call("GET", url)
    print(f"{sale['order']}: {found['status']}")
    for step in found["steps"]:
        print(f"  {step['name']}: {step['status']} {step['reason'] or ''}".rstrip())
    check(found["status"] == expected, f"it should be {expected}")


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The three, the orchestrator on a database in that folder; gives the address of each."""
    commands = {
        "orchestrator": [SAGABOX, "serve", "orchestrator"],
        "payments": [*UVICORN, "rest_payments.payments:app"],
        "parcels": [*UVICORN, "rest_payments.parcels:app"],
    }
    ports = {name: free_port() for name in commands}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        ),
        "SAGABOX_SECRETS": "own:" + base64.b64encode(os.urandom(32)).decode(),
        "SAGABOX_TRUST_LOOPBACK": "1",  # it listens at loopback alone, and only this program asks
        "SAGABOX_SAGAS": "rest_payments.saga:sell",
        "SAGABOX_PARTICIPANTS": f"payments=rest+{at['payments']}/v1,parcels=rest+{at['parcels']}",
        "SAGABOX_DATABASE_URL_ORCHESTRATOR": f"sqlite:///{folder}/orchestrator.sqlite",
        "PAYMENTS_TOKEN": base64.b64encode(os.urandom(12)).decode(),
    }
    with (folder / "log").open("w+b") as log:
        where: dict[str, Any] = {"env": environment, "stdout": log, "stderr": log}
        processes = []
        try:
            subprocess.run([SAGABOX, "migrate", "upgrade", "orchestrator"], check=True, **where)
            for name, command in commands.items():
                processes.append(subprocess.Popen([*command, "--port", str(ports[name])], **where))
            for name, port in ports.items():
                until(partial(listens, port), f"{name} listens")
            yield at
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-10_000:])
            raise
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(PATIENCE)


def call(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response = httpx.request(method, url, json=body, timeout=PATIENCE).raise_for_status()
    return dict(response.json()) if response.content else {}


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Below those that systems give to clients: none of them takes it before its service."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", randrange(20_000, 30_000)))
            return int(probe.getsockname()[1])


def until(predicate: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not predicate():
        check(time.monotonic() < end, f"{what}: not within {PATIENCE:g} seconds")
        time.sleep(0.1)  # other processes: nothing tells this one when they are so far


def check(is_right: bool, problem: str) -> None:
    if not is_right:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    # However it is ended, it ends the services first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
