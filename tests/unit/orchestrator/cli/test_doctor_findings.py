"""What `sagabox doctor` makes of settings, clocks and connections."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.cli.doctor import clocks, server
from orchestrator.cli.doctor.asked import Source, sources
from orchestrator.cli.doctor.findings import Finding, Verdict, ok
from orchestrator.cli.doctor.settings import known_settings, settings
from tests.support.checkout import ROOT
from tests.support.outbox.services import make_service

SECRETS = "k:" + "A" * 43 + "="
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def told(environment: dict[str, str]) -> dict[str, Finding]:
    return {it.about: it for it in settings(environment)}


def test_a_setting_that_nothing_reads_is_told_with_the_one_that_was_meant() -> None:
    found = told({"SAGABOX_PEER": "a=b", "SAGABOX_ZZZ": "1", "OTHER": "x", "SAGABOX_PEERS": ""})
    assert found["SAGABOX_PEER"].verdict is Verdict.WARNING
    assert found["SAGABOX_PEER"].next_step == "export SAGABOX_PEERS instead"
    assert found["SAGABOX_ZZZ"].next_step == "unset SAGABOX_ZZZ"
    assert found["SAGABOX_PEERS"].verdict is Verdict.OK
    assert "OTHER" not in found


def test_every_setting_of_the_page_on_configuration_is_known() -> None:
    page = (ROOT / "docs/operate/configuration.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(SAGABOX_[A-Z_]+)`", page, re.MULTILINE))
    assert {it.verdict for it in settings(dict.fromkeys(named, ""))} == {Verdict.OK}
    assert named - set(known_settings()) <= {
        it for it in named if it.startswith("SAGABOX_DATABASE_URL_")
    }


def test_no_value_is_told_and_what_a_service_lacks_is() -> None:
    environment = {"SAGABOX_DATABASE_URL_ORCHESTRATOR": "sqlite:////x", "SAGABOX_TOKEN": "secret!"}
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("SAGABOX_SECRETS", raising=False)
        patched.setenv("SAGABOX_DATABASE_URL_ORCHESTRATOR", "sqlite:////x")
        found = told(environment)
        assert found["orchestrator"].verdict is Verdict.PROBLEM
        assert "SAGABOX_SECRETS" in found["orchestrator"].told
        assert "secret!" not in str(found)
        patched.setenv("SAGABOX_SECRETS", SECRETS)
        assert told(environment)["orchestrator"].verdict is Verdict.OK


def test_an_orchestrator_within_an_application_needs_no_secrets_for_peers_of_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    within = {
        "SAGABOX_DATABASE_URL_ORCHESTRATOR": "sqlite:////x",
        "SAGABOX_TABLE_PREFIX": "orchestrator_",
    }
    for name in ("SAGABOX_SECRETS", "SAGABOX_PEERS", "SAGABOX_PARTICIPANTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in within.items():
        monkeypatch.setenv(name, value)
    assert told(within)["orchestrator"] == ok(
        "settings",
        "orchestrator",
        "has what it needs within an application; served by itself it needs SAGABOX_SECRETS",
    )
    away = within | {"SAGABOX_PEERS": "mail=http://127.0.0.1:1"}
    assert told(away)["orchestrator"].verdict is Verdict.PROBLEM


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("apart", "verdict"),
    [(0, Verdict.OK), (5.9, Verdict.OK), (6.1, Verdict.WARNING), (3600, Verdict.PROBLEM)],
)
def test_a_clock_that_is_apart_is_told(sign: int, apart: float, verdict: Verdict) -> None:
    ours = NOW + sign * timedelta(seconds=apart)
    found = clocks.compared("x", "the database's", NOW, ours, timedelta(seconds=1))
    assert found.verdict is verdict
    if verdict is not Verdict.OK:
        assert ("ahead of" if sign > 0 else "behind") in found.told
        assert "NTP" in found.next_step


@pytest.mark.parametrize(
    ("each", "used", "verdict"),
    [(20, 77, Verdict.OK), (20, 78, Verdict.WARNING), (98, 0, Verdict.PROBLEM)],
)
def test_connections_that_the_server_has_not_are_told(
    each: int, used: int, verdict: Verdict
) -> None:
    found = server.budget("stock", each, 97, used)
    assert found.verdict is verdict
    assert found.told.startswith(f"a process opens up to {each} of the server's 97 connections")
    assert bool(found.next_step) is (verdict is not Verdict.OK)


def test_a_process_opens_a_connection_for_wake_ups_beside_its_pools() -> None:
    address = "postgresql+asyncpg://nowhere/none"
    engine = create_async_engine(address, pool_size=5, max_overflow=2)
    (found,) = sources({}, [make_service(engine)])
    assert isinstance(found, Source)
    assert found.most_connections == 8
    pool = {"SAGABOX_POOL_SIZE": "5", "SAGABOX_POOL_OVERFLOW": "2"}
    (found,) = sources({"SAGABOX_DATABASE_URL_STOCK": address, **pool}, [])
    assert isinstance(found, Source)
    assert found.most_connections == 8
