from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, insert, select

from articles import contract as articles
from comments import article_events as heard
from comments.model import Known, Thread, ThreadStatus, metadata, status_of
from outbox.ids import Ids
from outbox.messages import Event, type_of
from outbox.replies import Locked, Refused
from outbox.testing import FakeClock
from outbox.wire.codec import decode, encode

NOW = datetime(2030, 1, 1, tzinfo=UTC)
_ids = Ids(FakeClock(), os.urandom)
ARTICLE, SAGA, OTHER = _ids(), _ids(), _ids()


@pytest.fixture
def thread() -> Thread:
    return Thread(**Thread.blank(ARTICLE))


def test_a_thread_opens_with_the_news_of_its_article(thread: Thread) -> None:
    assert thread.status is ThreadStatus.UNKNOWN
    thread.heard(title="Tides", version=1)
    assert (thread.status, thread.title, thread.version) == (ThreadStatus.PUBLISHED, "Tides", 1)
    assert (thread.events, thread.out_of_order) == (1, 0)


def test_events_in_order_are_counted_as_such(thread: Thread) -> None:
    for version in (1, 2, 3):
        thread.heard(title=f"v{version}", version=version)
    assert (thread.title, thread.version, thread.events, thread.out_of_order) == ("v3", 3, 3, 0)


def test_an_older_event_that_comes_late_is_counted_and_changes_no_title(thread: Thread) -> None:
    for version in (1, 3, 2):
        thread.heard(title=f"v{version}", version=version)
    assert (thread.title, thread.version, thread.events, thread.out_of_order) == ("v3", 3, 3, 2)


def test_a_late_publication_opens_no_closed_thread(thread: Thread) -> None:
    assert thread.close(SAGA) is None
    thread.heard(title="Tides", version=1)
    assert thread.status is ThreadStatus.DELETING
    assert thread.closed_by == SAGA


def test_a_late_publication_brings_back_no_deleted_thread(thread: Thread) -> None:
    thread.heard_of_deletion()
    thread.heard(title="Tides", version=1)
    assert (thread.status, thread.title) == (ThreadStatus.DELETED, "")


def test_a_late_publication_brings_back_no_purged_thread(thread: Thread) -> None:
    thread.close(SAGA)
    thread.purge(SAGA, NOW)
    thread.heard(title="Tides", version=1)
    assert thread.status is ThreadStatus.DELETED


def test_closing_is_a_lock_of_one_saga(thread: Thread) -> None:
    thread.heard(title="Tides", version=1)
    assert thread.close(SAGA) is None
    assert thread.close(SAGA) is None
    assert thread.close(OTHER) == Locked(SAGA)
    assert thread.purge(OTHER, NOW) == Locked(SAGA)
    assert thread.reopen(OTHER) is None
    assert thread.closed_by == SAGA
    assert thread.reopen(SAGA) is None
    assert thread.status is ThreadStatus.PUBLISHED


def test_reopening_a_thread_that_is_not_known_yet_leaves_it_unknown(thread: Thread) -> None:
    thread.close(SAGA)
    thread.reopen(SAGA)
    assert thread.status is ThreadStatus.UNKNOWN


def test_a_purged_thread_is_closed_and_reopened_by_no_saga(thread: Thread) -> None:
    thread.heard(title="Tides", version=1)
    thread.close(SAGA)
    assert thread.purge(SAGA, NOW) is None
    assert (thread.status, thread.title, thread.purged_at) == (ThreadStatus.DELETED, "", NOW)
    for answer in (thread.close(SAGA), thread.close(OTHER), thread.reopen(SAGA)):
        assert isinstance(answer, Refused)
        assert answer.code == "already-deleted"
    assert thread.purge(SAGA, NOW.replace(year=2031)) is None
    assert thread.purged_at == NOW


def test_the_database_calls_open_exactly_what_the_rule_calls_published() -> None:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    combinations = list(itertools.product(Known, (None, SAGA), (None, NOW)))
    rows = {_ids(): combination for combination in combinations}
    with engine.begin() as connection:
        connection.execute(
            insert(Thread),
            [
                {**Thread.blank(id), "known": known, "closed_by": by, "purged_at": at}
                for id, (known, by, at) in rows.items()
            ],
        )
        found = set(connection.scalars(select(Thread.article_id).where(Thread.is_open())))
    engine.dispose()
    assert len(rows) == 12
    assert found == {id for id, row in rows.items() if status_of(*row) is ThreadStatus.PUBLISHED}
    assert len(found) == 1


@pytest.mark.parametrize(
    "event",
    [
        articles.ArticlePublished(ARTICLE, "Tides", "Ada", 1),
        articles.ArticleEdited(ARTICLE, "Moons", 2),
        articles.ArticleDeleted(ARTICLE),
    ],
)
def test_comments_reads_what_articles_writes(event: Event) -> None:
    reading = getattr(heard, type(event).__name__)
    assert type_of(reading) == type_of(event)
    read = decode(reading, encode(event))
    for name in reading.__dataclass_fields__:
        assert getattr(read, name) == getattr(event, name)
