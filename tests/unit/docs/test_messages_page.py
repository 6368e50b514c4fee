"""The page on messages shows a union that arrives as it was sent."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from outbox.wire.codec import check_class, decode, encode
from tests.support.repository.manual import blocks


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("shown_on_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _, program = blocks("docs/guide/messages.md", "python")
    exec(compile(program, "docs/guide/messages.md", "exec"), module.__dict__)
    return module


def test_the_union_on_the_page_arrives_as_it_was_sent(shown: Any) -> None:
    check_class(shown.EntryBooked)
    for entry in (shown.Credit(500), shown.Debit(500)):
        sent = shown.EntryBooked("DE1", entry)
        read = decode(shown.EntryBooked, encode(sent))
        assert read == sent
        assert type(read.entry) is type(entry)
