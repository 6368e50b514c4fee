"""Sentences are short: most readers' first language is another one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

PAGES = [
    *(it for it in sorted(ROOT.glob("*.md")) if it.name != "CHANGELOG.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MOST_WORDS = 30

_NO_PROSE = re.compile(r"```.*?```|<!--.*?-->", re.S)
_NO_SENTENCE = ("|", "#", " +", "    ")
_PARAGRAPH = re.compile(r"\n\s*\n|\n\s*(?=- |\d+\. )")
_END = re.compile(r"(?:(?<=[.!?:;])|(?<=[.!?:;]\*)|(?<=[.!?:;]\*\*))\s+")


def long_sentences(text: str) -> Iterator[str]:
    """Those of a page; what stands in tables, headings and code is none."""
    text = _NO_PROSE.sub("", text)
    lines = [it for it in text.splitlines() if not it.startswith(_NO_SENTENCE)]
    for paragraph in _PARAGRAPH.split("\n".join(lines)):
        for sentence in _END.split(" ".join(paragraph.split())):
            if sum(bool(re.search(r"\w", it)) for it in sentence.split()) > MOST_WORDS:
                yield sentence


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_has_more_than_30_words(page: Path) -> None:
    assert list(long_sentences(page.read_text("utf-8"))) == []


def test_a_long_sentence_is_found() -> None:
    words = "word " * 31
    assert list(long_sentences(f"A short one. {words}\n\n    {words}\n\n| {words} |")) == [
        words.strip()
    ]


_NO_ACTOR = re.compile(r"\b(nobody|somebody|whoever|whatever)\b", re.I)


@pytest.mark.parametrize("folder", ["docs", "deploy"])
def test_a_sentence_names_who_acts(folder: str) -> None:
    texts = {
        it: it.read_text("utf-8")
        for it in sorted((ROOT / folder).rglob("*"))
        if it.is_file() and "secrets" not in it.parts
    }
    assert len(texts) > 50
    found = {str(it.relative_to(ROOT)): _NO_ACTOR.findall(text) for it, text in texts.items()}
    assert {page: words for page, words in found.items() if words} == {}
