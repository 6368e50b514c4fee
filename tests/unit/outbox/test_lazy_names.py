"""Packages that import their names at first use, and what a module of contracts costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import orchestrator
import outbox
from orchestrator.definition.saga import Saga
from outbox.relay.relay import Relay

_HEAVY = (
    "alembic",
    "asyncio",
    "fastapi",
    "httpx",
    "pydantic",
    "pytest",
    "sqlalchemy",
    "starlette",
    "uvicorn",
)
"""What costs a service its start, and a module of contracts must not load."""

_FACES = (
    "orchestrator",
    "orchestrator.testing",
    "outbox",
    "outbox.testing",
    "outbox.testing.transport_contract",
    "outbox.transports",
    "outbox.transports.http",
)


def _loaded_by(statement: str) -> set[str]:
    """The modules that a new process has after the statement, and does not have without it."""
    code = f"import sys; before = {{*sys.modules}}; {statement}; print(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_name_is_that_of_its_home() -> None:
    assert orchestrator.Saga is Saga
    assert outbox.Relay is Relay


def test_a_name_may_be_a_module() -> None:
    assert outbox.sqlite is sys.modules["outbox.sqlite"]


@pytest.mark.parametrize("package", [orchestrator, outbox])
def test_a_misspelt_name_is_an_error_that_names_the_package(package: object) -> None:
    name = getattr(package, "__name__", "")
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Sagga'"):
        getattr(package, "Sagga")  # noqa: B009 - a type checker would find it otherwise
    with pytest.raises(ImportError, match="cannot import name 'Sagga'"):
        exec(f"from {name} import Sagga")


@pytest.mark.parametrize("package", _FACES)
def test_a_face_alone_imports_nothing_heavy(package: str) -> None:
    loaded = _loaded_by(f"import {package}")
    assert package in loaded
    assert not loaded & {*_HEAVY}


def test_the_contract_of_transports_needs_no_test_framework() -> None:
    loaded = _loaded_by("from outbox.testing.transport_contract import contract_tests")
    assert "outbox.testing.transport_contract.each" in loaded
    assert not loaded & {"fastapi", "httpx", "pytest", "sqlalchemy", "starlette"}


@pytest.mark.parametrize("module", ["outbox.messages", "outbox.contract", "articles.contract"])
def test_a_contract_costs_the_modules_that_declarations_need(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    assert not loaded & {*_HEAVY}
    ours = {it for it in loaded if it.partition(".")[0] in ("outbox", "orchestrator")}
    assert ours <= {
        "outbox",
        "outbox.contract",
        "outbox.errors",
        "outbox.lazy_names",
        "outbox.messages",
    }
    # 740 were loaded while the package imported all that it offers.
    assert len(loaded) < 60, sorted(loaded)
