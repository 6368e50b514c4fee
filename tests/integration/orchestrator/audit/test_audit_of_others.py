"""`sagabox audit` of services that it never heard of, by what they declare."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import pytest
from sqlalchemy import Connection, Engine, insert

from orchestrator.cli.audit import reading
from orchestrator.cli.audit.databases import addresses, opened
from orchestrator.cli.audit.looks import Agreement, Findings, compare
from orchestrator.cli.audit.rules import Ruleset, together
from orchestrator.tables import saga_tables
from outbox import tables
from outbox.invariants import Holds, Invariants, Rule, Wrong
from tests.support.blog.audited import Audited
from tests.support.blog.blog import START, new_id
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.parcels import (
    DEPOT,
    SHOP,
    DepotBase,
    Order,
    Parcel,
    Shop,
    carrying,
    depot_schema,
    shop_schema,
)
from tests.support.processes.cli import sagabox, told_error

_RULES = "tests.support.outbox.parcels:SHOP,tests.support.outbox.parcels:"


@pytest.fixture
def databases(database_factory: DatabaseFactory) -> Mapping[str, Database]:
    return {"shop": database_factory(shop_schema), "depot": database_factory(depot_schema)}


@pytest.fixture
def engines(
    databases: Mapping[str, Database], make_sync_engine: MakeSyncEngine
) -> Mapping[str, Engine]:
    return {name: make_sync_engine(it) for name, it in databases.items()}


def write(engine: Engine, table: object, **row: object) -> None:
    with engine.begin() as connection:
        connection.execute(insert(table), [row])  # type: ignore[arg-type] # a mapped class or table


async def look(
    databases: Mapping[str, Database], rules: Ruleset | None = None, timeout: float = 60
) -> Findings:
    urls = addresses({name: it.url for name, it in databases.items()})
    async with opened(urls) as sources:
        return await compare(sources, rules or together([SHOP, DEPOT]), timeout=timeout)


@asynccontextmanager
async def traffic(shop: Shop) -> AsyncIterator[None]:
    """Orders come and go, until the block is left."""
    stop = asyncio.Event()

    async def trade() -> None:
        for number in count():
            if stop.is_set() or number > 5000:
                return
            order = await shop.place()
            if number % 2:
                await shop.cancel(order)

    trading = asyncio.create_task(trade())
    try:
        yield
    finally:
        stop.set()
        await trading


async def test_traffic_is_no_divergence_and_hides_none(
    databases: Mapping[str, Database], engines: Mapping[str, Engine], make_engine: MakeEngine
) -> None:
    of_shop, of_depot = make_engine(databases["shop"]), make_engine(databases["depot"])
    suspects = 0
    async with carrying(of_shop, of_depot) as shop, traffic(shop):
        for number in range(300):
            findings = await look(databases)
            assert findings.agreement is Agreement.AGREE, findings
            suspects += findings.suspects
            if number and suspects:
                break
        assert suspects, "nothing was ever under way, so nothing was tried"
        # In this thread it would wait for a turn that this thread's own loop has to end.
        await asyncio.to_thread(write, engines["depot"], Parcel, order="987654321")
        findings = await look(databases)
    assert findings.agreement is Agreement.DIVERGE
    assert [(it.id, it.code) for it in findings.divergences] == [
        ("987654321", "parcel-of-no-order")
    ]
    assert set(findings.compared) == {"orders", "parcels"}


async def test_ids_are_compared_across_columns_of_different_types(
    databases: Mapping[str, Database], engines: Mapping[str, Engine]
) -> None:
    for order in (7, 8):
        write(engines["shop"], Order, id=order)
    write(engines["depot"], Parcel, order="7")
    for unknown in ("9", "no number"):
        write(engines["depot"], Parcel, order=unknown)
    findings = await look(databases)
    assert [(it.id, it.code) for it in findings.divergences] == [
        ("8", "parcel-missing"),
        ("9", "parcel-of-no-order"),
        ("no number", "parcel-of-no-order"),
    ]
    assert findings.compared == {"orders": 2, "parcels": 3}


async def test_an_entity_that_is_met_on_both_sides_counts_once(
    databases: Mapping[str, Database],
    engines: Mapping[str, Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was there when its keeper was read, and was cancelled before the parcels were."""
    write(engines["depot"], Parcel, order="7")

    async def twice(*_: object) -> AsyncIterator[list[str]]:
        yield ["7"]
        yield ["7"]

    monkeypatch.setattr(reading, "everything", twice)
    findings = await look(databases)
    assert (findings.suspects, findings.followed, len(findings.divergences)) == (1, 1, 1)
    assert findings.agreement is Agreement.DIVERGE


async def test_what_a_living_saga_wrote_is_left_to_it(
    databases: Mapping[str, Database],
    engines: Mapping[str, Engine],
    database_factory: DatabaseFactory,
    make_sync_engine: MakeSyncEngine,
) -> None:
    blog = Audited(database_factory, make_sync_engine)
    live, ended = blog.saga("a cart"), blog.saga("a cart", ended=True)
    write(engines["depot"], Parcel, order="1", packed_by=live)
    write(engines["depot"], Parcel, order="2", packed_by=ended)
    findings = await look({**databases, "orchestrator": blog.databases["orchestrator"]})
    assert ([it.id for it in findings.divergences], findings.at_work) == (["2"], 1)


async def test_a_chain_of_events_is_waited_for_to_its_end(
    databases: Mapping[str, Database],
    engines: Mapping[str, Engine],
    database_factory: DatabaseFactory,
    make_sync_engine: MakeSyncEngine,
) -> None:
    """The shop's message makes another service send one, which puts it right."""
    chain = {**databases, "carrier": database_factory(depot_schema)}
    carrier = make_sync_engine(chain["carrier"])
    order = {"bucket": 0, "destination": "x", "aggregatetype": "t", "aggregateid": "1"}
    row = {**order, "type": "t.t.v1", "payload": "{}", "headers": "{}", "occurred_at": START}
    write(engines["shop"], Order, id=1)
    write(engines["shop"], tables.outbox, id=new_id(), **row)
    steps = iter([("shop", "carrier"), ("carrier", None)])
    everyone = {**engines, "carrier": carrier}

    async def arrive(_: float) -> None:
        here, there = next(steps)
        with everyone[here].begin() as connection:
            connection.execute(tables.outbox.delete())
        if there is None:
            write(engines["depot"], Parcel, order="1")
        else:
            write(everyone[there], tables.outbox, id=new_id(), **row)

    rules = together([SHOP, DEPOT, Invariants("carrier")])
    async with opened(addresses({name: it.url for name, it in chain.items()})) as sources:
        findings = await compare(sources, rules, timeout=20, pause=arrive)
    assert (findings.agreement, findings.suspects) == (Agreement.AGREE, 1)


def test_the_command_takes_services_and_declarations_from_its_options(
    databases: Mapping[str, Database], engines: Mapping[str, Engine]
) -> None:
    write(engines["depot"], Parcel, order="5")
    given = [f"--service={name}={it.url}" for name, it in databases.items()]
    told = sagabox(
        "audit", *given, "--no-orchestrator", "--json", "--rules", f"{_RULES}EVENTS_ALONE"
    )
    (found,) = json.loads(told.out)["divergences"]
    assert (told.code, found["entity"], found["id"], found["repair"]) == (1, "order", "5", None)
    variables = {
        **{f"SAGABOX_DATABASE_URL_{name.upper()}": it.url for name, it in databases.items()},
        "SAGABOX_AUDIT": f"{_RULES}EVENTS_ALONE",
    }
    told = sagabox("audit", "--no-orchestrator", **variables)
    assert (told.code, "shop and depot do not agree: 1 divergence\n" in told.out) == (1, True)
    write(engines["depot"], Parcel, order="6")
    told = sagabox("audit", "--no-orchestrator", "--json", "--limit", "1", **variables)
    document = json.loads(told.out)
    assert (document["found"], len(document["divergences"])) == (2, 1)
    told = sagabox("audit", "--no-orchestrator", "--limit", "1", **variables)
    assert "and 1 more" in told.out


@pytest.mark.parametrize(
    ("arguments", "happened"),
    [
        (["--rules", "no_shop:X"], "there is no module 'no_shop'"),
        (["--rules", "tests.support.outbox.parcels:Order"], "and no Invariants"),
        (["--rules", "tests.support.outbox.parcels:DEPOT"], "which no service keeps"),
        (["--rules", "tests.support.outbox.parcels:SHOP"], "there is nothing to compare"),
        (["--rules", f"{_RULES}SHOP"], "2 declarations are of the service 'shop'"),
        (["--rules", f"{_RULES}DEPOT", "--no-orchestrator"], "the orchestrator is needed here"),
        (
            ["--rules", f"{_RULES}EVENTS_ALONE", "--no-orchestrator", "--repair"],
            "the orchestrator is needed here",
        ),
        (["--rules", f"{_RULES}DEPOT", "--service", "depot"], "takes a name and an address"),
        (["--rules", f"{_RULES}DEPOT", "--articles", "x"], "nothing is declared of that"),
        (["--rules", f"{_RULES}DEPOT"], "where the database of shop is"),
        (["--rules", f"{_RULES}DEPOT", "--tables", "shop"], "takes a name and a prefix"),
        (["--rules", f"{_RULES}DEPOT", "--tables", "shop=No!"], "of shop cannot be called so"),
        (["--rules", f"{_RULES}DEPOT", "--tables", "till=a_"], "a prefix of till was given"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_told(arguments: list[str], happened: str) -> None:
    error = told_error(sagabox("audit", "--json", "--yes", *arguments))
    assert error["exit_code"] == 2
    assert happened in error["happened"]
    assert error["next_step"]


async def test_a_hold_counts_only_where_the_entity_is_there(
    databases: Mapping[str, Database],
    engines: Mapping[str, Engine],
    database_factory: DatabaseFactory,
    make_sync_engine: MakeSyncEngine,
) -> None:
    blog = Audited(database_factory, make_sync_engine)
    write(engines["shop"], Order, id=1)
    for order in ("1", "2"):
        write(engines["depot"], Parcel, order=order, packed_by=new_id())
    held: list[Rule] = [
        Holds("order", id=Parcel.order, saga=Parcel.packed_by, wrong=Wrong("held", "it lives"))
    ]
    rules = together([SHOP, replace(DEPOT, rules=held)])
    findings = await look(
        {**databases, "orchestrator": blog.databases["orchestrator"]}, rules=rules
    )
    assert [it.id for it in findings.divergences] == ["1"]


def test_each_database_may_have_a_prefix_of_its_own(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    """The shop's process runs the orchestrator, too: both have tables in the shop's database."""

    def shop_with_orchestrator(connection: Connection) -> None:
        shop_schema(connection)
        saga_tables(tables.Tables(prefix="orchestrator_")).metadata.create_all(connection)
        tables.Tables(prefix="orchestrator_").metadata.create_all(connection)

    def depot(connection: Connection) -> None:
        tables.Tables(prefix="depot_").metadata.create_all(connection)
        DepotBase.metadata.create_all(connection)

    shop = database_factory(shop_with_orchestrator)
    given = [
        *("audit", "--rules", f"{_RULES}DEPOT"),
        *("--service", f"shop={shop.url}", "--service", f"depot={database_factory(depot).url}"),
        *("--orchestrator", shop.url),
    ]
    told = sagabox(*given, "--tables", "orchestrator=orchestrator_", "--tables", "depot=depot_")
    assert (told.code, "agree" in told.out) == (0, True), told
    shared = sagabox(*given, "--tables", "shop=", SAGABOX_TABLE_PREFIX="depot_")
    assert "the database of orchestrator has not the tables" in shared.err
    assert "--tables orchestrator=PREFIX" in shared.err
    write(make_sync_engine(shop), Order, id=1)
    told = sagabox(
        *(*given, "--tables", "orchestrator=orchestrator_", "--tables", "shop="),
        SAGABOX_TABLE_PREFIX="depot_",
    )
    assert (told.code, "1 divergence" in told.out) == (1, True), told


@pytest.mark.databases("postgresql")
def test_each_database_may_have_a_schema_of_its_own(database_factory: DatabaseFactory) -> None:
    def depot(connection: Connection) -> None:
        named = tables.Tables(prefix="depot_", schema="messaging")
        named.create_schema(connection)
        named.metadata.create_all(connection)
        DepotBase.metadata.create_all(connection)

    told = sagabox(
        *("audit", "--no-orchestrator", "--rules", f"{_RULES}EVENTS_ALONE"),
        *("--tables", "depot=messaging.depot_"),
        *("--service", f"shop={database_factory(shop_schema).url}"),
        *("--service", f"depot={database_factory(depot).url}"),
    )
    assert told.code == 0, told


def test_no_table_of_a_service_is_a_database_that_was_not_migrated(
    databases: Mapping[str, Database], database_factory: DatabaseFactory
) -> None:
    def nothing(_: Connection) -> None:
        pass

    told = sagabox(
        *("audit", "--json", "--no-orchestrator", "--rules", f"{_RULES}EVENTS_ALONE"),
        *("--service", f"shop={databases['shop'].url}"),
        *("--service", f"depot={database_factory(nothing).url}"),
    )
    error = told_error(told)
    assert "the database of depot has not the tables" in error["happened"]
    assert error["next_step"].startswith("run the migrations of depot")
