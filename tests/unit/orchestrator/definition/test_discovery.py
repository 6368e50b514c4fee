"""Which sagas an orchestrator is to run, and who answers their commands."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import outbox
from orchestrator import discovery
from orchestrator.discovery import discover, one
from orchestrator.sagas.delete_article import delete_article
from outbox.chassis.settings import InvalidSettings

NAME = "orchestrator.sagas.delete_article:delete_article"


def _installed(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(discovery, "entry_points", lambda group: [*points])


def test_sagas_are_found_by_name_and_each_once() -> None:
    assert discover(f" {NAME}, ,{NAME}") == [delete_article]
    assert discover("") == []


def test_sagas_of_installed_packages_are_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, EntryPoint("deletion", NAME, discovery.GROUP))
    assert discover("") == [delete_article]
    assert discover(NAME) == [delete_article]


@pytest.mark.parametrize(
    ("name", "problem", "next_step"),
    [
        ("shop", "'shop', which is not module:attribute", "shop.sagas:checkout"),
        ("shop sagas:x", "is not module:attribute", "shop.sagas:checkout"),
        (":x", "is not module:attribute", "shop.sagas:checkout"),
        ("no_shop.sagas:x", "there is no module 'no_shop'", "PYTHONPATH"),
        (
            "orchestrator.sagas.delete_article:delete",
            "'orchestrator.sagas.delete_article' has no 'delete'",
            "orchestrator.sagas.delete_article:delete_article",
        ),
        (
            "orchestrator.sagas.delete_article:Deletion",
            "which is a type and no Saga",
            "orchestrator.sagas.delete_article:delete_article",
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_the_next_step(
    name: str, problem: str, next_step: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        discover(name)
    assert refused.value.problem.startswith("SAGABOX_SAGAS names ")
    assert problem in refused.value.problem
    assert next_step in refused.value.next_step


def test_a_module_that_breaks_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_sagas.py").write_text("1 / 0\n")
    (tmp_path / "sagas_without.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidSettings, match=r"importing 'broken_sagas' failed \(ZeroDivision"):
        discover("broken_sagas:x")
    with pytest.raises(InvalidSettings, match="there is no module 'not_there_at_all'"):
        discover("sagas_without:x")


# --- One object -----------------------------------------------------------------------------------


@pytest.fixture
def two_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules `one_service` and `two_services`."""
    service = "outbox.Service({0!r}, create_engine('sqlite:///{0}.sqlite'), peers={{}})"
    first = "import outbox\nfrom sqlalchemy import create_engine\nthis = " + service.format("this")
    (tmp_path / "one_service.py").write_text(f"{first}\nthe_same = this\n")
    (tmp_path / "two_services.py").write_text(f"{first}\nthat = {service.format('that')}\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("two_services")
@pytest.mark.parametrize("name", ["two_services:that", "one_service"])
def test_one_object_is_found_by_its_name_or_as_the_only_one(name: str) -> None:
    found = one(name, by="a test names", kind=outbox.Service, example="a:b")
    assert found.name == ("that" if ":" in name else "this")


@pytest.mark.usefixtures("two_services")
@pytest.mark.parametrize(
    ("name", "problem", "next_step"),
    [
        ("nowhere", "there is no module 'nowhere'", "put its folder on PYTHONPATH"),
        ("nowhere:this", "there is no module 'nowhere'", "put its folder on PYTHONPATH"),
        ("two_services:third", "has no 'third'", "two_services:this, two_services:that"),
        ("two_services:outbox", "which is a module and no Service", "two_services:that"),
        ("two_services", "which has 2 values of the kind Service", "two_services:that"),
        ("os", "which has no values of the kind Service", "it has none"),
        ("two_services:this,two_services:that", "is not module:attribute", "as in a:b"),
        ("two services", "is not module:attribute", "as in a:b"),
    ],
)
def test_one_object_that_is_not_found_is_told_with_the_next_step(
    name: str, problem: str, next_step: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        one(name, by="a test names", kind=outbox.Service, example="a:b")
    assert problem in refused.value.problem
    assert next_step in refused.value.next_step


def test_an_entry_point_that_leads_nowhere_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _installed(monkeypatch, EntryPoint("deletion", "no_shop:x", discovery.GROUP))
    with pytest.raises(InvalidSettings, match="declares the entry point deletion = no_shop:x"):
        discover("")
