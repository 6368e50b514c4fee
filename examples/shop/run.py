"""Runs the shop, each service in a process of its own, and places two orders: one that the card
pays, and one that is above its limit."""

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
        call("PUT", f"{at['stock']}/items/lamp", {"price": 40_00, "free": 10})
        call("PUT", f"{at['payments']}/cards/1234", {"limit": 100_00})
        place_order(at, quantity=2, expected=("shipped", "COMPLETED"))
        place_order(at, quantity=3, expected=("released", "COMPENSATED"))
        free = call("GET", f"{at['stock']}/items/lamp")["free"]
        charged = call("GET", f"{at['payments']}/cards/1234")["charged"]
        print(f"{free} of 10 lamps are left, and the card was charged {charged} cents")
        check((free, charged) == (8, 80_00), "that is not the first order alone")


def place_order(at: dict[str, str], quantity: int, expected: tuple[str, str]) -> None:
    order = {"item": "lamp", "quantity": quantity, "card": "1234"}
    order_id = call("POST", f"{at['stock']}/orders", order)["id"]
    url = f"{at['stock']}/orders/{order_id}"
    until(lambda: call("GET", url)["saga"], f"the end of order {order_id}")
    order = call("GET", url)
    saga = call("GET", f"{at['orchestrator']}/sagas/{order_id}")
    print(f"{quantity} lamps: the order is {order['status']}, its saga {saga['status']}")
    for step in saga["steps"]:
        print(f"  {step['name']}: {step['status']} {step['reason'] or ''}".rstrip())
    check((order["status"], saga["status"]) == expected, f"they should be {expected}")
    check(order["saga"] == saga["status"], f"stock was told {order['saga']}")


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The services, on databases in that folder; gives the address of each."""
    commands = {
        "orchestrator": [SAGABOX, "serve", "orchestrator"],
        "stock": [*UVICORN, "shop.stock:app"],
        "payments": [*UVICORN, "shop.payments:app"],
    }
    ports = {name: free_port() for name in commands}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "SAGABOX_SECRETS": "shop:" + base64.b64encode(os.urandom(32)).decode(),
        "SAGABOX_TRUST_LOOPBACK": "1",  # it listens at loopback alone, and only this program asks
        "SAGABOX_SAGAS": "shop.saga:place_order",
        "SAGABOX_PEERS": ",".join(f"{name}={address}" for name, address in at.items()),
        "SAGABOX_DATABASE_URL_ORCHESTRATOR": f"sqlite:///{folder}/orchestrator.sqlite",
        "SAGABOX_DATABASE_URL_STOCK": f"sqlite+aiosqlite:///{folder}/stock.sqlite",
        "SAGABOX_DATABASE_URL_PAYMENTS": f"sqlite+aiosqlite:///{folder}/payments.sqlite",
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
