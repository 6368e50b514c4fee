"""Each row of a table has as many cells as its head: else a value stands below another name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.unit.docs.test_sentences import PAGES

_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_CODE = re.compile(r"`[^`]*`")
_BAR = re.compile(r"(?<!\\)\|")


def uneven_rows(text: str) -> Iterator[str]:
    """Rows with another number of cells than the first one of their table."""
    head = 0
    for line in _FENCE.sub("", text).splitlines():
        cells = len(_BAR.findall(_CODE.sub("", line))) if line.startswith("|") else 0
        if cells and head and cells != head:
            yield line
        head = (head or cells) if cells else 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_has_the_cells_of_its_head(page: Path) -> None:
    assert list(uneven_rows(page.read_text("utf-8"))) == []


def test_an_uneven_row_is_found() -> None:
    text = "| a | `b|c` |\n| --- | --- |\n| 1 | 2 |\n| 3 |\n\n| one |\n| 4 |\n"
    assert list(uneven_rows(text)) == ["| 3 |"]
