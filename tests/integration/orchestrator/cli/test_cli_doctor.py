"""`sagabox doctor` at the databases of a service of one's own and of the orchestrator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, make_url

from outbox.clock import SystemClock
from outbox.destinations.pause_rows import row as pause_row
from outbox.ids import is_id
from outbox.inbox.rows import State
from outbox.lanes import PAUSED
from outbox.schema import database_id
from outbox.tables import (
    inbox,
    inbox_pending,
    inbox_watermark,
    outbox_held,
    outbox_lease,
    outbox_service,
    tables_named,
)
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import Told, address
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.outbox.inboxes import ledger_schema
from tests.support.processes.cli import sagabox
from tests.support.processes.waiting import free_port

AN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
_MODULE = """
import outbox
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.outbox.inboxes import Book

service = outbox.Service("bank", {engine}, peers={peers})

@service.on(Book)
{function} book(session, command, context) -> outbox.Pending:
    return outbox.Pending("days")
"""


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@dataclass
class Patient:
    """A service in a module of the folder that the doctor is called in, and its database."""

    module: str
    engine: Engine

    def looked_at(self, *words: str, **variables: str | None) -> tuple[int, list[dict[str, str]]]:
        """The exit code and the findings."""
        away = f"http://127.0.0.1:{free_port()}"
        told = sagabox("doctor", *words, self.module, "--json", "--url", away, **variables)
        assert told.err == "", told
        findings: list[dict[str, str]] = json.loads(told.out)["findings"]
        return told.code, findings

    def told(self, area: str, **variables: str | None) -> list[tuple[str, str, str]]:
        """The verdict, the text and the next step of each finding of that area about the bank."""
        _, findings = self.looked_at(**variables)
        return [
            (it["verdict"], it["told"], it["next_step"])
            for it in findings
            if it["area"] == area and it["about"] == "bank"
        ]

    def put(self, *statements: Any) -> None:
        """Have these rows in the database."""
        with self.engine.begin() as connection:
            for each in statements:
                connection.execute(each)


def write_module(
    folder: Path, database: Database, peers: Mapping[str, str], kind: str = "create_async_engine"
) -> str:
    module = f"bank_of_{folder.name.replace('-', '_')}_{len(peers)}"
    url = database.url if kind == "create_async_engine" else database.sync_url
    function = "async def" if kind == "create_async_engine" else "def"
    text = _MODULE.format(engine=f"{kind}({url!r})", peers=dict(peers), function=function)
    (folder / f"{module}.py").write_text(text, "utf-8")
    return module


@pytest.fixture(params=["create_async_engine", "create_engine"])
def patient(
    request: pytest.FixtureRequest,
    database: Database,
    make_sync_engine: MakeSyncEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Patient:
    module = write_module(tmp_path, database, {"orchestrator": "http://127.0.0.1:1"}, request.param)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Patient(module, make_sync_engine(database))


def test_a_service_that_is_well_has_no_problem(patient: Patient, database_kind: str) -> None:
    code, findings = patient.looked_at()
    assert [it for it in findings if it["verdict"] == "problem"] == []
    assert code == 0
    areas = {it["area"] for it in findings if it["about"] == "bank"}
    of_server = {"clock", "connections", "rights"} if database_kind == "postgresql" else set()
    assert areas == {"versions", "migrations", "leases", "pending", *of_server}
    (here,) = [it["told"] for it in findings if it["about"] == "here"]
    assert all(f"{it} " in here for it in ("Python", "sagabox", "sqlalchemy", "asyncpg"))


def test_without_json_each_finding_is_a_line_with_its_next_step(patient: Patient) -> None:
    told: Told = sagabox("doctor", patient.module, SAGABOX_PEER="x")
    lines = told.out.splitlines()
    assert "ok       migrations of bank: the library's tables are there" in lines
    at = lines.index("warning  settings of SAGABOX_PEER: is read by nothing")
    assert lines[at + 1] == "         next: export SAGABOX_PEERS instead"


def test_a_paused_destination_is_told_with_the_command_that_resumes_it(patient: Patient) -> None:
    since = SystemClock().now() - timedelta(hours=5, minutes=1)
    paused = pause_row("crm", PAUSED, since, "it is gone: 410 Gone")
    patient.put(insert(outbox_held).values(paused))
    assert patient.told("pauses") == [
        (
            "warning",
            "crm has been paused for 5 h 1 min: it is gone: 410 Gone",
            "sagabox destinations resume MODULE:bank crm",
        )
    ]


def test_databases_that_speak_under_one_name_are_told_and_two_at_once_are_a_problem(
    patient: Patient,
) -> None:
    now, copy = SystemClock().now(), "01890a5d-ac96-774b-bcce-b302099a8058"

    def heard(**hours: tuple[float, float]) -> Any:
        """The first and the last word of each, so many hours ago: of hours no seconds are told."""
        times = {AN_ID: hours["original"], copy: hours["copy"]}
        text = json.dumps(
            {id: [(now - timedelta(hours=it)).isoformat() for it in of] for id, of in times.items()}
        )
        row = {"consumer": "bank", "scope": "databases", "below": copy, "except_ids": text}
        return insert(inbox_watermark).values(row)

    one_is_forgotten = heard(original=(900, 800), copy=(9, 1.25)).values(source="office")
    patient.put(
        heard(original=(90, 9.5), copy=(9, 1.25)).values(source="desk"),
        heard(original=(90, 2.5), copy=(9, 1.25)).values(source="orchestrator"),
        one_is_forgotten,
    )
    assert patient.told("names") == [
        (
            "warning",
            f"several databases spoke under the name desk: {AN_ID} 9 h 30 min ago, {copy} 1 h "
            "15 min ago",
            "nothing, if its database was replaced; otherwise stop one of the two",
        ),
        (
            "problem",
            f"two orchestrators have the name orchestrator, in the databases {AN_ID} 2 h 30 min "
            f"ago, {copy} 1 h 15 min ago",
            "stop the one that is a copy; or let the runs of one end, and begin it anew under a "
            "name of its own",
        ),
    ]


def test_an_orchestrator_that_has_run_has_the_id_by_which_participants_know_its_database(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine, database_kind: str
) -> None:
    database, since = database_factory(orchestrator_schema), SystemClock().now()

    def told() -> list[str]:
        said = sagabox(
            *("doctor", "--json", "--url", f"http://127.0.0.1:{free_port()}"),
            SAGABOX_DATABASE_URL_ORCHESTRATOR=address(database),
        )
        findings = json.loads(said.out)["findings"]
        return [it["told"] for it in findings if it["area"] == "names"]

    assert told() == []
    with make_sync_engine(database).begin() as connection:
        connection.execute(insert(outbox_service).values(only=1, name="office", since=since))
    (found,) = told()
    begin = "its participants know it as office, with the database "
    assert found.startswith(begin)
    assert is_id(found.removeprefix(begin))
    of_tables = found == begin + database_id("office", since)
    assert of_tables is (database_kind == "sqlite"), "PostgreSQL tells its place, too"


def test_leases_are_told_by_their_holders_and_those_that_expired_too(patient: Patient) -> None:
    now = SystemClock().now()
    row = {"destination": "mail", "epoch": 1}
    later, before = now + timedelta(hours=1), now - timedelta(hours=2, minutes=5)
    patient.put(
        insert(outbox_lease).values(row | {"bucket": 0, "owner": "p1", "expires_at": later}),
        insert(outbox_lease).values(row | {"bucket": 1, "owner": "p1", "expires_at": later}),
        insert(outbox_lease).values(row | {"bucket": 2, "owner": "p2", "expires_at": before}),
        insert(outbox_lease).values(row | {"bucket": 3, "owner": None, "expires_at": before}),
    )
    assert patient.told("leases") == [
        ("ok", "p1 holds 2", ""),
        (
            "warning",
            "no process holds 1 (to mail): p2 stopped or died 2 h 5 min ago",
            "start bank: a process of it takes over what is due",
        ),
    ]


def pending(id: str, expected_at: datetime, reply_to: str, state: State = State.PENDING) -> Any:
    since = SystemClock().now() - timedelta(days=3)
    return [
        insert(inbox).values(
            consumer="bank", id=id, state=state.value, source=reply_to, received_at=since
        ),
        insert(inbox_pending).values(
            consumer="bank",
            id=id,
            type="bank.book.v1",
            source=reply_to,
            reply_to=reply_to,
            key="k",
            undoes="[]",
            note="the airline",
            since=since,
            expected_at=expected_at,
            attempt=0,
            is_in_doubt=False,
        ),
    ]


def test_pending_commands_that_are_late_or_have_no_way_back_are_told(patient: Patient) -> None:
    now = SystemClock().now()
    patient.put(*pending(AN_ID, now - timedelta(hours=2, minutes=5), "orchestrator"))
    patient.put(*pending(f"{AN_ID[:-1]}8", now + timedelta(hours=1), "orchestrator"))
    patient.put(*pending(f"{AN_ID[:-1]}9", now - timedelta(days=1), "orchestrator", State.RAN))
    late = (
        "warning",
        f"{AN_ID} (bank.book.v1) was expected 2 h 5 min ago: the airline",
        "sagabox pending list MODULE:bank",
    )
    assert patient.told("pending") == [late]
    patient.put(*pending(f"{AN_ID[:-1]}a", now + timedelta(hours=1), "elsewhere"))
    assert patient.told("pending") == [
        late,
        (
            "problem",
            "elsewhere waits for an answer, and is not among the peers",
            "add elsewhere=http://HOST:PORT to SAGABOX_PEERS of the service",
        ),
    ]
    assert patient.looked_at()[0] == 1
    patient.put(delete(inbox_pending))
    assert patient.looked_at()[0] == 0


def test_a_service_that_answers_later_without_an_orchestrator_among_its_peers_is_told(
    database: Database, tmp_path: Path, make_sync_engine: MakeSyncEngine, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    patient = Patient(write_module(tmp_path, database, {}), make_sync_engine(database))
    (found,) = patient.told("pending")
    assert found[:2] == (
        "warning",
        "Book may be answered later, and no orchestrator is among the peers",
    )


def test_databases_of_the_environment_are_looked_at_and_one_without_tables_is_a_problem(
    database_factory: DatabaseFactory,
) -> None:
    empty = database_factory("empty")
    away = f"http://127.0.0.1:{free_port()}"
    variables = {
        "SAGABOX_DATABASE_URL_ORCHESTRATOR": address(empty),
        "SAGABOX_DATABASE_URL_STOCK": address(empty),
        "SAGABOX_DATABASE_URL_MAIL": "sqlite:////nowhere/mail.sqlite",
        "SAGABOX_DATABASE_URL_HOTEL": "postgresql://127.0.0.1:1/none",
    }
    told = sagabox("doctor", "--json", "--url", away, **variables)
    assert told.code == 1
    found = {
        (it["area"], it["about"]): it
        for it in json.loads(told.out)["findings"]
        if it["verdict"] == "problem"
    }
    assert (
        found["migrations", "orchestrator"]["next_step"] == "sagabox migrate upgrade orchestrator"
    )
    assert "none of the library's tables" in found["migrations", "stock"]["told"]
    assert "does not exist" in found["databases", "mail"]["told"]
    assert "it cannot be asked" in found["databases", "hotel"]["told"]
    assert ("leases", "stock") not in found


@pytest.mark.databases("postgresql")
def test_a_grant_that_the_role_lacks_is_told_with_the_statement_that_mends_it(
    database: Database, make_sync_engine: MakeSyncEngine, tmp_path: Path, monkeypatch: Any
) -> None:
    admin = make_sync_engine(database)
    statements = (
        "CREATE ROLE sagabox_patient LOGIN",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO sagabox_patient",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO sagabox_patient",
    )
    url = make_url(address(database)).set(username="sagabox_patient")
    try:
        with admin.begin() as connection:
            for each in statements:
                connection.exec_driver_sql(each)
        told = sagabox(
            *("doctor", "--json", "--url", f"http://127.0.0.1:{free_port()}"),
            SAGABOX_DATABASE_URL_STOCK=url.render_as_string(hide_password=False),
        )
        findings = [it for it in json.loads(told.out)["findings"] if it["about"] == "stock"]
        (found,) = [it for it in findings if it["verdict"] == "problem"]
        assert (told.code, found["area"]) == (1, "rights")
        assert "the role sagabox_patient may not INSERT" in found["told"]
        assert "GRANT INSERT, UPDATE, DELETE ON TABLE public." in found["next_step"]
    finally:
        with admin.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY sagabox_patient CASCADE")
            connection.exec_driver_sql("DROP ROLE sagabox_patient")


def test_tables_with_a_prefix_are_looked_at_by_their_names(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    database = database_factory("empty")
    tables = tables_named("shop_", None)
    with make_sync_engine(database).begin() as connection:
        tables.metadata.create_all(connection)
        connection.execute(
            insert(tables.outbox_lease).values(
                destination="mail",
                epoch=1,
                bucket=0,
                owner="p1",
                expires_at=SystemClock().now() + timedelta(hours=1),
            )
        )
    told = sagabox(
        *("doctor", "--json", "--url", f"http://127.0.0.1:{free_port()}"),
        SAGABOX_DATABASE_URL_STOCK=address(database),
        SAGABOX_TABLE_PREFIX="shop_",
    )
    findings = json.loads(told.out)["findings"]
    assert "p1 holds 1" in [it["told"] for it in findings if it["area"] == "leases"]
    assert told.code == 0, findings


def test_a_module_that_cannot_be_imported_is_a_finding_and_the_rest_is_looked_at(
    patient: Patient,
) -> None:
    code, findings = patient.looked_at("nowhere:service")
    assert code == 1
    assert [it["about"] for it in findings if it["verdict"] == "problem"] == ["nowhere:service"]
    assert any(it["area"] == "migrations" for it in findings)


@pytest.mark.databases("sqlite")
def test_databases_of_services_with_one_name_are_told_apart_by_their_addresses(
    database_factory: DatabaseFactory, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    databases = [database_factory(ledger_schema), database_factory("empty")]
    modules = [
        write_module(tmp_path, it, dict.fromkeys("ab"[:at], "http://127.0.0.1:1"))
        for at, it in enumerate(databases)
    ]
    away = f"http://127.0.0.1:{free_port()}"
    told = sagabox("doctor", *modules, "--json", "--url", away)
    findings = json.loads(told.out)["findings"]
    found = {it["about"]: it["verdict"] for it in findings if it["area"] == "migrations"}
    assert found == {f"bank ({databases[0].url})": "ok", f"bank ({databases[1].url})": "problem"}
