"""`examples/orders_flask` and `examples/orders_django`: processes of gunicorn that die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import Engine, text

import outbox
from orchestrator.cli.processes.child import Child
from outbox.replies import Outcome
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.databases.locks import until_it_waits
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.banks import BIN, Running, envelope_of, listening, running
from tests.support.processes.waiting import free_port, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Placed(outbox.Event, type="orders.order-placed.v1", key="order_id"):
    order_id: str
    item: str


@dataclass(frozen=True)
class Cancel(outbox.Command[None], type="orders.cancel-order.v1", key="order_id"):
    order_id: str


@dataclass(frozen=True)
class Example:
    """How an example is run."""

    application: str
    hooks: str
    make_tables: tuple[str, ...]
    table: str


FLASK = Example(
    "orders_flask.app:app",
    "python:orders_flask.gunicorn_hooks",
    ("flask", "--app", "orders_flask.app", "create-tables"),
    "orders",
)
DJANGO = Example(
    "orders_django.wsgi",
    "python:orders_django.gunicorn_hooks",
    ("django-admin", "migrate", "--settings", "orders_django.settings"),
    "orders_django_order",
)


class Shop:
    """The example as a service, its database, and the port of the mail that hears of orders."""

    def __init__(self, example: Example, service: Running, plain: Engine, mail_at: int) -> None:
        self.service = service
        self.mail_at = mail_at
        self._orders = example.table
        self._plain = plain

    async def place(self, item: str) -> str:
        """A new order; its id."""
        answer = await self._ask("POST", "/orders", json={"item": item})
        assert answer.status_code == 202, answer.text + self.service.log
        id_: str = answer.json()["id"]
        return id_

    async def order(self, id: str) -> dict[str, Any]:
        """What it says of an order."""
        order: dict[str, Any] = (await self._ask("GET", f"/orders/{id}")).json()
        return order

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.service.url, trust_env=False) as client:
            return await client.request(method, path, timeout=60, **options)

    def rows(self) -> tuple[int, int]:
        """How many orders there are, and how many messages wait."""
        orders = text(f"SELECT count(*) FROM {self._orders}")
        with self._plain.connect() as connection:
            waiting = connection.scalar(text("SELECT count(*) FROM outbox"))
            return connection.scalar(orders) or 0, waiting or 0


async def kill(master: Child) -> None:
    """End gunicorn and all of its workers, as a power cut does."""
    workers = psutil.Process(master.pid).children()
    await master.kill()
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers)


@pytest.fixture
def database_schema() -> str:
    return "empty"


@pytest.fixture(params=[FLASK, DJANGO], ids=["flask", "django"])
async def shop(
    request: pytest.FixtureRequest,
    database: Database,
    make_sync_engine: MakeSyncEngine,
    tmp_path: Path,
) -> AsyncIterator[Shop]:
    example: Example = request.param
    port = free_port()
    command = ("gunicorn", "--threads", "4", "--workers", "2", "--bind", "127.0.0.1:PORT")
    async with running(
        [str(BIN / command[0]), *command[1:], "--config", example.hooks, example.application],
        tmp_path,
        path=EXAMPLES,
        peers={"mail": f"http://127.0.0.1:{port}"},
        environment={"ORDERS_DATABASE_URL": database.sync_url},
    ) as service:
        await asyncio.to_thread(_make_tables, example, service)
        yield Shop(example, service, make_sync_engine(database), port)


def _make_tables(example: Example, service: Running) -> None:
    program, *arguments = example.make_tables
    subprocess.run(
        [str(BIN / program), *arguments],
        env=service.spec.environment,
        check=True,
        capture_output=True,
        timeout=100,
    )


@pytest.mark.databases("postgresql")
async def test_what_was_promised_before_a_death_is_kept_after_it(
    shop: Shop, database_factory: DatabaseFactory, make_engine: MakeEngine
) -> None:
    """An order is told of while the mail is away, and a cancellation is delivered twice."""
    first = await shop.service.start()
    orders = [await shop.place("a lamp"), await shop.place("a chair")]
    cancel = envelope_of(Cancel(orders[0]), "orders.cancel-order.v1")
    [reply] = await shop.service.take(cancel)
    assert reply.outcome is Outcome.DONE
    await kill(first)
    again = await shop.service.start()
    assert list(await shop.service.take(cancel)) == [reply]
    mails = make_engine(database_factory("outbox"))
    async with listening(
        mails, "mail", Placed, lambda placed: placed.order_id, at=shop.mail_at
    ) as mail:
        await until(lambda: len(mail.heard) >= 2, 60, what="the mail hears of both")
        assert sorted(mail.heard) == sorted(orders)
    assert await shop.order(orders[0]) == {
        "id": orders[0],
        "status": "cancelled",
        "cancellations": 1,
    }
    assert (await shop.order(orders[1]))["status"] == "placed"
    assert await again.stop(30) == 0, shop.service.log


_WAIT = (
    "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$",
    "CREATE TRIGGER waits AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION wait()",
)
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND query LIKE '%outbox%' AND state <> 'idle'"
)


@pytest.mark.databases("postgresql")
async def test_a_death_between_order_and_commit_leaves_neither_order_nor_message(
    shop: Shop, database: Database, make_engine: MakeEngine
) -> None:
    """Both are inserted when the process dies: the trigger waits behind the message."""
    engine = make_engine(database)
    master = await shop.service.start()
    async with engine.begin() as connection:
        for statement in _WAIT:
            await connection.execute(text(statement))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(7)"))
        placing = asyncio.create_task(shop.place("a lamp"))
        await until_it_waits(engine, placing)
        await kill(master)
        with pytest.raises(httpx.HTTPError):
            await placing
        await connection.execute(text("SELECT pg_advisory_unlock(7)"))
        await connection.rollback()

        async def ended() -> bool:
            async with engine.connect() as looking:
                return not await looking.scalar(_OTHERS)

        await until(ended, 30, what="PostgreSQL has noticed")
    assert shop.rows() == (0, 0)
    await shop.service.start()
    await shop.place("a chair")
    assert shop.rows() == (1, 1)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("shop", [DJANGO], indirect=True, ids=["django"])
def test_a_message_shares_the_fate_of_django_s_transaction(shop: Shop) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.outbox.orders_in_django"],
        env={**shop.service.spec.environment, "PYTHONPATH": f"{EXAMPLES}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout.splitlines() == [
        "committed: 1 order, 1 message",
        "rolled back: 1 order, 1 message",
        "in a savepoint that is rolled back: 2 orders, 1 message",
        "outside of a transaction: refused",
        "committed after that: 3 orders, 2 messages",
        "the handlers of notices are as many as before",
    ], done.stderr
