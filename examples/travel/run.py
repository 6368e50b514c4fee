"""Runs the three services, an orchestrator and a provider, each in a process of its own, and books
three trips: one whose card is refused, one that is paid although the provider's answer is lost, and
one for which the hotel has no room left."""

import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import randrange
from typing import Any

import httpx

PATIENCE = 60.0  # seconds for each thing that is waited for; a machine may have much else to do
FOLDER = Path(__file__).resolve().parent
SERVICES = ("hotel", "flight", "payment")
NAMES = ("orchestrator", *SERVICES, "provider")
SAGABOX = str(Path(sys.executable).with_name("sagabox"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as at:
        call("PUT", f"{at['hotel']}/rooms/double", {"price": 90_00, "number": 1})
        call("PUT", f"{at['flight']}/flights/SB7", {"price": 120_00, "seats": 10})
        call("PUT", f"{at['payment']}/cards/1234", {"account": "ada"})
        call("PUT", f"{at['payment']}/cards/5678", {"account": "bob"})
        call("PUT", f"{at['provider']}/accounts/ada", {"limit": 1_000_00})
        call("PUT", f"{at['provider']}/accounts/bob", {"limit": 100_00})
        book_trip(at, card="5678", expected="COMPENSATED")
        call("PUT", f"{at['provider']}/modes/charges", {"cut_after": 1})  # it charges, and is gone
        book_trip(at, card="1234", expected="COMPLETED")
        book_trip(at, card="1234", expected="COMPENSATED")
        reserved = call("GET", f"{at['flight']}/flights/SB7")["reserved"]
        charges = call("GET", f"{at['provider']}/ledger")["charges"]
        print(f"{reserved} seat is reserved")
        for it in charges:
            asked, refunds = it["asked"], len(it["refunds"])
            print(
                f"{it['amount']} cents: asked {asked} times, charged once, refunded {refunds} times"
            )
        check((reserved, len(charges)) == (1, 1), "that is not the second trip alone")


def book_trip(at: Mapping[str, str], card: str, expected: str) -> None:
    trip = {"room": "double", "flight": "SB7", "card": card}
    trip_id = call("POST", f"{at['hotel']}/trips", trip)["id"]
    url = f"{at['hotel']}/trips/{trip_id}"
    until(lambda: call("GET", url)["ended"], f"the end of trip {trip_id}")
    ended = call("GET", url)["ended"]
    print(f"a trip with card {card}: {ended}")
    for step in call("GET", f"{at['orchestrator']}/sagas/{trip_id}")["steps"]:
        print(f"  {step['name']}: {step['status']} {step['reason'] or ''}".rstrip())
    check(ended == expected, f"it should be {expected}")


def migrations() -> list[list[str]]:
    """The commands that make the databases."""
    alembic = [sys.executable, "-m", "alembic", "-c"]
    return [
        [SAGABOX, "migrate", "upgrade", "orchestrator"],
        *([*alembic, str(FOLDER / it / "alembic.ini"), "upgrade", "head"] for it in SERVICES),
    ]


def commands(ports: Mapping[str, int], ledger: Path) -> dict[str, list[str]]:
    """The command of each process. The provider keeps its state in the file `ledger`."""
    uvicorn = [sys.executable, "-m", "uvicorn", "--no-access-log"]
    provider = [sys.executable, "-m", "outbox.testing.provider", "--database", str(ledger)]
    return {
        "orchestrator": [SAGABOX, "serve", "orchestrator", "--port", str(ports["orchestrator"])],
        **{it: [*uvicorn, f"travel.{it}.app:app", "--port", str(ports[it])] for it in SERVICES},
        "provider": [*provider, "--port", str(ports["provider"])],
    }


def environment(ports: Mapping[str, int], databases: Mapping[str, str]) -> dict[str, str]:
    """What all of them are told. The databases are given by their URLs."""
    at = addresses(ports)
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "SAGABOX_SECRETS": "travel:" + base64.b64encode(os.urandom(32)).decode(),
        "SAGABOX_TRUST_LOOPBACK": "1",  # it listens at loopback alone, and only this program asks
        "SAGABOX_SAGAS": "travel.saga:book_trip",
        "SAGABOX_PEERS": f"orchestrator={at['orchestrator']},hotel={at['hotel']}",
        "SAGABOX_PARTICIPANTS": ",".join(f"{it}={at[it]}" for it in SERVICES),
        "SAGABOX_DATABASE_URL_ORCHESTRATOR": databases["orchestrator"],
        **{f"TRAVEL_DATABASE_URL_{it.upper()}": databases[it] for it in SERVICES},
        "TRAVEL_PROVIDER_URL": at["provider"],
        "TRAVEL_AIRLINE_URL": at["provider"],  # it plays both
        "TRAVEL_WEBHOOK_URL": f"{at['flight']}/airline-news",
    }


def addresses(ports: Mapping[str, int]) -> dict[str, str]:
    return {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """All of them, on databases in that folder; gives the address of each."""
    ports = {name: free_port() for name in NAMES}
    databases = {
        "orchestrator": f"sqlite:///{folder}/orchestrator.sqlite",
        "hotel": f"sqlite:///{folder}/hotel.sqlite",
        "flight": f"sqlite+aiosqlite:///{folder}/flight.sqlite",
        "payment": f"sqlite+aiosqlite:///{folder}/payment.sqlite",
    }
    with (folder / "log").open("w+b") as log:
        where: dict[str, Any] = {
            "env": environment(ports, databases),
            "stdout": log,
            "stderr": log,
        }
        processes = []
        try:
            for command in migrations():
                subprocess.run(command, check=True, **where)
            for command in commands(ports, folder / "provider.sqlite").values():
                processes.append(subprocess.Popen(command, **where))
            for name, port in ports.items():
                until(partial(listens, port), f"{name} listens")
            yield addresses(ports)
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
