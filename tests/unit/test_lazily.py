"""Packages that import their names when they are asked for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import orchestrator
from orchestrator.definition import Saga


def test_a_name_is_that_of_its_home() -> None:
    assert orchestrator.Saga is Saga


def test_a_misspelt_name_is_an_error_that_names_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'orchestrator' has no attribute 'Sagga'"):
        getattr(orchestrator, "Sagga")  # noqa: B009 - a type checker would find it otherwise
    with pytest.raises(ImportError, match="cannot import name 'explored'"):
        exec("from orchestrator.testing import explored")


@pytest.mark.parametrize("package", ["orchestrator", "orchestrator.testing"])
def test_the_package_alone_imports_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print({{'sqlalchemy', 'outbox'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
