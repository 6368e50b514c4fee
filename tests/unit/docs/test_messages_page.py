"""The page on messages shows a union that arrives as it was sent, and routes that lead where it
says."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import sessionmaker

from outbox.adding.installation import install
from outbox.messages import Event
from outbox.wire.codec import check_class, decode, encode
from tests.support.repository.manual import blocks


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("shown_on_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _, program, _ = blocks("docs/guide/messages.md", "python")
    exec(compile(program, "docs/guide/messages.md", "exec"), module.__dict__)
    return module


def test_the_union_on_the_page_arrives_as_it_was_sent(shown: Any) -> None:
    check_class(shown.EntryBooked)
    for entry in (shown.Credit(500), shown.Debit(500)):
        sent = shown.EntryBooked("DE1", entry)
        read = decode(shown.EntryBooked, encode(sent))
        assert read == sent
        assert type(read.entry) is type(entry)


@dataclass(frozen=True)
class ArticleDeleted(Event, type="articles.article-deleted.v1", key="article"):
    article: str


@dataclass(frozen=True)
class ArticleViewed(Event, type="articles.article-viewed.v1", key="article"):
    article: str


@dataclass(frozen=True)
class ArticleMoved(Event, type="articles.article-moved.v1", key="article"):
    article: str


def test_the_routes_on_the_page_lead_where_it_says() -> None:
    def service(name: str, _engine: object, *, routes: Any) -> Any:
        return install(sessionmaker(), source=name, routes=routes)

    names: dict[str, Any] = {
        "outbox": SimpleNamespace(Service=service),
        "engine": None,
        "ArticleDeleted": ArticleDeleted,
        "ArticleViewed": ArticleViewed,
    }
    exec(blocks("docs/guide/messages.md", "python")[2], names)
    installed = names["service"]
    assert installed.destinations(ArticleDeleted("a"), None) == ("mail", "search", "audit")
    assert installed.destinations(ArticleViewed("a"), None) == ()
    assert installed.destinations(ArticleMoved("a"), None) == ("mail", "search")
