"""Each page of the decisions is in their index, and says what lost, the figures and the price."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

FOLDER = ROOT / "docs" / "internals" / "decisions"
PAGES = sorted(set(FOLDER.iterdir()) - {FOLDER / "README.md"})


def _headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", text, re.M)


def test_the_index_names_each_page_once_by_its_title() -> None:
    listed = re.findall(r"^\| \[(.+?)\]\((.+?)\) \|", (FOLDER / "README.md").read_text(), re.M)
    titles = [(_headings(page.read_text())[0], page.name) for page in PAGES]
    assert sorted(listed) == sorted(titles)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_was_decided_why_what_lost_and_what_it_costs(page: Path) -> None:
    text = page.read_text()
    parts = _headings(text)[1:]
    assert text.count("**Decided.**") == 1
    assert [it for it in parts if it != "What is promised instead"] in (
        ["Why", "What lost", "Figures", "What it costs"],
        ["Why", "What lost", "Figures"],
    )
    lost = text.partition("## What lost\n")[2].partition("## ")[0]
    assert len(re.findall(r"^- \*\*", lost, re.M)) >= 3


@pytest.mark.parametrize("page", sorted(FOLDER.iterdir()), ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", page.read_text()):
        other = page.parent / target if target else page
        assert other.exists(), target
        anchors = [it.lower().replace(" ", "-") for it in _headings(other.read_text())]
        assert not heading or heading in anchors, f"{target}#{heading}"
