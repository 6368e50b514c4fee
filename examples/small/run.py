"""Runs the shop, which is one process on one SQLite file, and places two orders: one that is paid,
and one that is above the credit."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import randrange
from typing import Any

import httpx

PATIENCE = 60.0  # seconds for each thing that is waited for; a machine may have much else to do
HERE = Path(__file__).resolve().parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as shop:
        call("PUT", f"{shop}/items/lamp", {"free": 10})
        call("PUT", f"{shop}/accounts/ada", {"credit": 100_00})
        place_order(shop, cents=80_00, expected=("shipped", "COMPLETED"))
        place_order(shop, cents=30_00, expected=(None, "COMPENSATED"))
        free = call("GET", f"{shop}/items/lamp")["free"]
        print(f"{free} of 10 lamps are left")
        check(free == 9, "that is not the first order alone")


def place_order(shop: str, cents: int, expected: tuple[str | None, str]) -> None:
    order = {"item": "lamp", "account": "ada", "cents": cents}
    order_id = call("POST", f"{shop}/orders", order)["id"]
    found = ended(f"{shop}/orders/{order_id}?wait={PATIENCE:g}")
    print(f"a lamp for {cents} cents: its saga is {found['saga']}")
    check(found["saga"] == expected[1], f"it should be {expected[1]}")
    if expected[0] is not None:
        check(found["status"] == expected[0], f"the order should be {expected[0]}")


def ended(order: str) -> dict[str, Any]:
    """The order once its saga has ended. At first the message that asks for it is on its way."""
    end = time.monotonic() + PATIENCE
    while (found := call("GET", order))["saga"] == "not known yet" and time.monotonic() < end:
        time.sleep(0.1)  # another process: nothing tells this one when it knows the saga
    return found


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The shop, on a database in that folder; gives its address."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/shop.sqlite",
    }
    with (folder / "log").open("w+b") as log:
        where: dict[str, Any] = {"env": environment, "stdout": log, "stderr": log}
        shop = None
        try:
            python = [sys.executable, "-m"]
            migrate = [*python, "alembic", "-c", str(HERE / "alembic.ini"), "upgrade", "head"]
            subprocess.run(migrate, check=True, **where)
            serve = [*python, "uvicorn", "small.app:app", "--port", str(port)]
            shop = subprocess.Popen(serve, **where)
            end = time.monotonic() + PATIENCE
            while not listens(port):
                check(shop.poll() is None and time.monotonic() < end, "the shop does not listen")
                time.sleep(0.1)  # another process: nothing tells this one when it is so far
            yield f"http://127.0.0.1:{port}"
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-10_000:])
            raise
        finally:
            if shop is not None:
                shop.terminate()
                shop.wait(PATIENCE)


def call(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response = httpx.request(method, url, json=body, timeout=2 * PATIENCE).raise_for_status()
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


def check(is_right: bool, problem: str) -> None:
    if not is_right:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    # However it is ended, it ends the shop first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
