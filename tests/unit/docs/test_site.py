"""The site leads to every page. That its links lead somewhere, `make docs` finds out."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from tests.support.checkout import ROOT

DOCS = ROOT / "docs"
BY_THEIR_INDEX = ("internals/decisions", "internals/spec")
"""Folders whose README lists the others."""


def pages(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from pages(target)


def test_every_page_is_in_the_navigation_or_on_the_index_of_its_folder() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text())
    found = {str(it.relative_to(DOCS)) for it in DOCS.rglob("*.md")}
    by_index = {it for it in found if it.startswith(BY_THEIR_INDEX) and "README" not in it}
    assert sorted(pages(site["project"]["nav"])) == sorted(found - by_index)
