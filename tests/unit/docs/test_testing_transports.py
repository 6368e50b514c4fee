"""The page on transports shows what its example does, and names every test and feature."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields, replace

import pytest

from outbox.testing.transport_contract import (
    Confirms,
    Connect,
    ContractTest,
    Features,
    contract_tests,
)
from tests.support.checkout import ROOT
from tests.support.repository.manual import blocks

PAGE = "docs/guide/testing-transports.md"
PATH = ROOT / "examples" / "testing_a_transport.py"
EXAMPLE = runpy.run_path(str(PATH))
KEPT: Features = EXAMPLE["KEPT"]
CONNECT: Connect = EXAMPLE["connect"]


def test_its_snippet_is_the_end_of_the_example() -> None:
    (shown,) = blocks(PAGE, "python")
    assert PATH.read_text().endswith(shown)


def test_it_names_every_test_and_every_feature() -> None:
    whole = replace(KEPT, largest=1, carries_statements=True)
    ways = [replace(whole, confirms=confirms) for confirms in Confirms]
    ways.append(replace(whole, carries_commands=False))
    tests = {test.name for features in ways for test in contract_tests(features)}
    told = re.findall(r"^\| `(\w+)` \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    assert sorted(told) == sorted(tests | {it.name for it in fields(Features)})


@pytest.mark.parametrize("test", contract_tests(KEPT), ids=str)
async def test_the_example_keeps_the_contract(test: ContractTest) -> None:
    await test.run(CONNECT)
