from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from articles.contract import (
    ArticleDeleted,
    ArticleEdited,
    ArticleHidden,
    ArticlePublished,
    ArticleUnhidden,
)
from articles.model import Article, ArticleStatus, NotPublished
from outbox.contract import StartSaga
from outbox.ids import Ids
from outbox.replies import Locked, Refused
from outbox.testing import FakeClock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
_ids = Ids(FakeClock(), os.urandom)
SAGA, OTHER = _ids(), _ids()


@pytest.fixture
def article() -> Article:
    return Article.write(_ids(), title="Tides", body="High and low.", author="Ada", now=NOW)


def _tombstone(article: Article) -> Article:
    article.hide(SAGA)
    assert isinstance(article.delete(SAGA, NOW), ArticleDeleted)
    return article


def test_a_new_article_is_published_at_version_1(article: Article) -> None:
    assert article.status is ArticleStatus.PUBLISHED
    assert article.publish() == ArticlePublished(article.id, "Tides", "Ada", 1)


def test_an_edit_is_the_next_version_and_tells_of_it(article: Article) -> None:
    later = NOW + timedelta(hours=1)
    event = article.edit(title="Moons", body="Two.", now=later)
    assert event == ArticleEdited(article.id, "Moons", 2)
    assert (article.version, article.body, article.updated_at) == (2, "Two.", later)
    assert article.created_at == NOW


@pytest.mark.parametrize("field", ["hidden_by", "deletion_saga"])
def test_an_article_under_deletion_is_not_edited(article: Article, field: str) -> None:
    setattr(article, field, SAGA)
    assert article.status is ArticleStatus.DELETING
    with pytest.raises(NotPublished):
        article.edit(title="New", body="", now=NOW)
    assert (article.title, article.version) == ("Tides", 1)


def test_asking_twice_for_the_deletion_keeps_the_first_saga(article: Article) -> None:
    start = article.ask_for_deletion(SAGA)
    assert start == StartSaga("delete-article", {"article_id": article.id}, SAGA)
    assert article.ask_for_deletion(OTHER) is None
    assert article.deletion_saga == SAGA


@pytest.mark.parametrize("status", ["COMPENSATED", "RESOLVED", "TERMINATED"])
def test_a_saga_that_ended_without_deleting_sets_the_article_free(
    article: Article, status: str
) -> None:
    article.ask_for_deletion(SAGA)
    article.deletion_ended(OTHER, status)
    assert article.deletion_saga == SAGA
    article.deletion_ended(SAGA, status)
    assert article.status is ArticleStatus.PUBLISHED
    assert article.ask_for_deletion(OTHER) is not None


def test_a_saga_that_completed_stays_noted(article: Article) -> None:
    article.ask_for_deletion(SAGA)
    article.deletion_ended(SAGA, "COMPLETED")
    assert article.deletion_saga == SAGA


def test_hiding_is_a_lock_of_one_saga(article: Article) -> None:
    assert article.hide(SAGA) == ArticleHidden("Tides", 1)
    assert article.hide(SAGA) == ArticleHidden("Tides", 1)
    assert article.hide(OTHER) == Locked(SAGA)
    assert article.unhide(OTHER) == ArticleUnhidden(was_hidden=False)
    assert article.hidden_by == SAGA
    assert article.unhide(SAGA) == ArticleUnhidden(was_hidden=True)
    assert article.status is ArticleStatus.PUBLISHED


def test_unhiding_leaves_the_saga_that_was_asked_for(article: Article) -> None:
    article.ask_for_deletion(SAGA)
    article.hide(SAGA)
    article.unhide(SAGA)
    assert article.status is ArticleStatus.DELETING


def test_a_legal_hold_is_put_at_any_time_and_stops_the_deletion_alone(article: Article) -> None:
    article.hide(SAGA)
    article.put_on_hold("case 7")
    answer = article.delete(SAGA, NOW)
    assert isinstance(answer, Refused)
    assert answer.code == "legal-hold"
    assert (article.status, article.title) == (ArticleStatus.DELETING, "Tides")
    article.release_hold()
    assert isinstance(article.delete(SAGA, NOW), ArticleDeleted)


def test_only_the_saga_that_hid_the_article_deletes_it(article: Article) -> None:
    not_hidden = article.delete(SAGA, NOW)
    assert isinstance(not_hidden, Refused)
    assert not_hidden.code == "not-hidden"
    article.hide(OTHER)
    assert article.delete(SAGA, NOW) == Locked(OTHER)
    assert article.status is ArticleStatus.DELETING


def test_a_tombstone_keeps_nothing_of_the_text(article: Article) -> None:
    _tombstone(article)
    assert article.status is ArticleStatus.DELETED
    assert (article.title, article.body, article.author) == ("", "", "")
    assert article.deleted_at == NOW


def test_a_tombstone_takes_nothing_more(article: Article) -> None:
    _tombstone(article)
    for answer in (article.hide(OTHER), article.unhide(SAGA), article.delete(SAGA, NOW)):
        assert isinstance(answer, Refused)
        assert answer.code == "already-deleted"
    with pytest.raises(NotPublished):
        article.edit(title="x", body="", now=NOW)
    with pytest.raises(NotPublished):
        article.ask_for_deletion(OTHER)
    with pytest.raises(NotPublished):
        article.put_on_hold("late")
    with pytest.raises(NotPublished):
        article.release_hold()
