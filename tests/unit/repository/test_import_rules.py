"""Imports run one way, and pure modules stay pure: see docs on the layout of the packages.

The second half plants violations in a small tree of its own, so that a rule that finds nothing is
known to be able to find something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.repository import layers
from tests.support.repository.imports import Import, Sources, within

_RULES: list[Callable[[Sources], Iterator[str]]] = [
    layers.wrong_directions,
    layers.more_than_contracts,
    layers.heavy_contracts,
    layers.missing,
    lambda sources: layers.impurities(sources, layers.pure_modules(sources)),
]
_NAMES = ["directions", "sagas", "contracts", "lists", "purity"]


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(ROOT, layers.PACKAGES)


@pytest.mark.parametrize("rule", _RULES, ids=_NAMES)
def test_the_packages_keep_the_rules(
    sources: Sources, rule: Callable[[Sources], Iterator[str]]
) -> None:
    violations = list(rule(sources))
    assert not violations, "\n" + "\n".join(violations)


def test_the_walk_saw_every_package(sources: Sources) -> None:
    seen = {module.partition(".")[0] for module in sources.files}
    assert seen == {package for package in layers.PACKAGES if (ROOT / package).exists()}
    assert {"outbox", "orchestrator"} <= seen


def _plant(root: Path, **modules: str) -> Sources:
    """A tree with the modules `outbox__relay="..."` and packages around them."""
    for name, text in modules.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
    return Sources(root, layers.PACKAGES)


@pytest.mark.parametrize(
    ("module", "text", "imported"),
    [
        ("outbox__relay", "import orchestrator", "orchestrator"),
        ("outbox__relay", "import os, articles.model as m", "articles.model"),
        ("outbox__relay", "from comments import model", "comments.model"),
        ("outbox__relay", "from migrations import Anything", "migrations"),
        ("outbox__relay", "from tests.support import waiting", "tests.support"),
        ("outbox__transports__http", "from ...articles import model", "articles.model"),
        ("articles__handlers", "import comments", "comments"),
        ("articles__handlers", "from orchestrator.sagas import x", "orchestrator.sagas"),
        ("articles__handlers", "def f():\n    from comments import contract", "comments"),
        ("comments__api", "if TYPE_CHECKING:\n    from articles import contract", "articles"),
        ("comments__api", "import importlib\nimportlib.import_module('articles.x')", "articles.x"),
        ("comments__api", "__import__('orchestrator')", "orchestrator"),
        ("orchestrator__engine", "import articles.contract", "articles.contract"),
        ("orchestrator__cli__serve", "from comments.app import app", "comments.app"),
        ("orchestrator__engine", "import migrations", "migrations"),
    ],
)
def test_a_planted_import_in_the_wrong_direction_is_found(
    tmp_path: Path, module: str, text: str, imported: str
) -> None:
    sources = _plant(tmp_path, **{module: text}, articles__model="", comments__model="")
    line = 1 + text.count("\n")
    (violation,) = layers.wrong_directions(sources)
    where = f"{module.replace('__', '/')}.py:{line}: {module.replace('__', '.')}"
    assert violation.startswith(f"{where} imports {imported}: ")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("outbox__relay", "import orchestrators, articles_of_others"),
        ("outbox__relay", "from . import store\nfrom .store import claim"),
        ("articles__handlers", "from outbox import Handlers\nfrom articles.model import Article"),
        ("orchestrator__sagas__delete_article", "from articles import contract"),
        ("orchestrator__cli__migrate", "from migrations import __main__"),
        ("migrations__env", "from articles.model import metadata"),
    ],
)
def test_an_import_in_the_right_direction_is_not_a_violation(
    tmp_path: Path, module: str, text: str
) -> None:
    sources = _plant(tmp_path, **{module: text}, articles__contract="", outbox__store="")
    assert list(layers.wrong_directions(sources)) == []
    assert list(layers.more_than_contracts(sources)) == []


@pytest.mark.parametrize("text", ["from articles import model", "import comments.handlers"])
def test_a_saga_that_imports_more_than_a_contract_is_found(tmp_path: Path, text: str) -> None:
    sources = _plant(tmp_path, orchestrator__sagas__merge=text, articles__model="")
    (violation,) = layers.more_than_contracts(sources)
    assert "a saga knows the contract of a service, and nothing else" in violation


@pytest.mark.parametrize(
    "text", ["import sqlalchemy", "from outbox import Event", "from articles.model import Article"]
)
def test_a_contract_that_imports_more_than_declarations_need_is_found(
    tmp_path: Path, text: str
) -> None:
    light = "from dataclasses import dataclass\nfrom outbox.messages import Event\n"
    sources = _plant(tmp_path, articles__contract=light + text, outbox__messages="")
    (violation,) = layers.heavy_contracts(sources)
    assert violation.startswith("articles/contract.py:3: articles.contract imports ")


@pytest.mark.parametrize(
    "text",
    [
        "import random",
        "import time",
        "import asyncio",
        "import sqlalchemy",
        "import os",
        "from outbox import tables",
        "from outbox.clock import SystemClock",
        "from datetime import datetime as d\nx = d.now()",
        "import uuid\nx = uuid.uuid4()",
        "x = open('file')",
        "async def f() -> None: ...",
    ],
)
def test_a_planted_impurity_is_found(tmp_path: Path, text: str) -> None:
    sources = _plant(tmp_path, outbox__retry=text, outbox__tables="", outbox__clock="")
    (violation,) = layers.impurities(sources, ("outbox.retry",))
    assert violation.startswith(f"outbox/retry.py:{1 + text.count(chr(10))}: ")


@pytest.mark.parametrize(
    "text",
    [
        "from datetime import datetime, timedelta\nimport hashlib, json, orjson",
        "from outbox import messages\nfrom outbox.ids import is_id",
        "if typing.TYPE_CHECKING:\n    from outbox.clock import Clock",
        "from collections.abc import Callable",
    ],
)
def test_what_only_turns_values_into_values_is_pure(tmp_path: Path, text: str) -> None:
    sources = _plant(tmp_path, outbox__retry=text, outbox__messages="", outbox__ids="")
    assert list(layers.impurities(sources, ("outbox.retry", "outbox.messages"))) == []


def test_lists_that_do_not_fit_the_tree_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "PURE", ("outbox.gone", "outbox.retry"))
    monkeypatch.setattr(layers, "PLANNED", ("outbox.here", "outbox.later"))
    gone, here = layers.missing(_plant(tmp_path, outbox__retry="", outbox__here=""))
    assert gone == "outbox.gone is listed in PURE, and there is no such module: rename or remove it"
    assert here == "outbox.here is listed in PLANNED, and exists: move it to PURE"


def test_the_walk_reads_every_form_of_import(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "import a, b.c as d",
            "from e import f, g",
            "from . import store",
            "from .store import claim",
            "from .. import h",
        ]
    )
    sources = _plant(tmp_path, outbox__transports__http=text, outbox__transports__store="")
    assert sources.imports_of("outbox.transports.http") == [
        Import("outbox.transports.http", imported, f"outbox/transports/http.py:{line}", False)
        for imported, line in [
            ("a", 1),
            ("b.c", 1),
            ("e", 2),
            ("e", 2),
            ("outbox.transports.store", 3),
            ("outbox.transports.store", 4),
            ("outbox", 5),
        ]
    ]


def test_a_module_is_within_its_packages_and_no_namesake() -> None:
    assert within("outbox", "outbox")
    assert within("outbox.relay", "articles", "outbox")
    assert not within("outboxes", "outbox")
