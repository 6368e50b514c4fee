"""`sagabox audit`: it finds what is wrong, and nothing that is only on its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

import articles.invariants
import comments.invariants
from comments.model import Known
from orchestrator.cli.audit.looks import Agreement
from outbox import tables
from outbox.invariants import Wrong
from tests.support.blog.audited import Audited, codes, look, make_healthy
from tests.support.blog.blog import START, new_id

pytestmark = pytest.mark.slow

DEAD = new_id()  # a saga that no database knows
DECLARED = {
    wrong.code
    for invariants in (articles.invariants.INVARIANTS, comments.invariants.INVARIANTS)
    for rule in invariants.rules
    for wrong in vars(rule).values()
    if isinstance(wrong, Wrong)
}


async def test_nothing_is_found_where_nothing_is_wrong(blog: Audited) -> None:
    make_healthy(blog)
    findings = await look(blog)
    assert findings.agreement is Agreement.AGREE
    assert codes(findings) == []
    assert findings.compared == {"articles": 5, "threads": 6, "comments": 3}
    assert (findings.suspects, findings.at_work) == (0, 1)


def _comments_of_deleted(blog: Audited) -> str:
    article = blog.tombstone()
    blog.comment(article)
    return article


def _archived_comments_of_deleted(blog: Audited) -> str:
    article = blog.tombstone()
    blog.comment(article, archived_by=DEAD)
    return article


def _archived_comments(blog: Audited) -> str:
    article = blog.article()
    blog.comment(article)
    blog.comment(article, archived_by=DEAD)
    return article


def _comments_of_unknown(blog: Audited) -> str:
    unknown = new_id()
    blog.thread(unknown, known=Known.UNKNOWN)
    blog.comment(unknown)
    return unknown


def _thread_of_unknown(blog: Audited) -> str:
    unknown = new_id()
    blog.thread(unknown)
    return unknown


def _comments_without_thread(blog: Audited) -> str:
    article = blog.article()
    with blog.engines["comments"].begin() as connection:
        connection.execute(text("DELETE FROM threads"))
    blog.comment(article)
    return article


PLANTED: list[tuple[str, Callable[[Audited], str], set[str]]] = [
    ("comments of a deleted article", _comments_of_deleted, {"comments-of-deleted-article"}),
    (
        "archived comments of a deleted article",
        _archived_comments_of_deleted,
        {"comments-of-deleted-article"},
    ),
    (
        "an open thread of a deleted article",
        lambda it: it.tombstone(thread={"known": Known.PUBLISHED, "purged_at": None}),
        {"thread-of-deleted-article"},
    ),
    ("no thread", lambda it: it.article_alone(), {"thread-missing"}),
    (
        "a thread that has heard nothing",
        lambda it: it.article(thread={"known": Known.UNKNOWN}),
        {"thread-missing"},
    ),
    ("an old version", lambda it: it.article(version=2), {"thread-behind"}),
    (
        "a closed thread",
        lambda it: it.article(thread={"closed_by": DEAD}),
        {"closed-thread"},
    ),
    (
        "a thread that is gone",
        lambda it: it.article(thread={"known": Known.DELETED}),
        {"thread-not-open"},
    ),
    (
        "a purged thread",
        lambda it: it.article(thread={"purged_at": START}),
        {"thread-not-open"},
    ),
    ("archived comments", _archived_comments, {"archived-comments"}),
    ("a hidden article", lambda it: it.article(hidden_by=DEAD), {"hidden-article"}),
    (
        "a deletion that never began",
        lambda it: it.article(deletion_saga=DEAD),
        {"deletion-without-saga"},
    ),
    ("comments of nothing", _comments_of_unknown, {"comments-of-unknown-article"}),
    ("a thread of nothing", _thread_of_unknown, {"thread-of-unknown-article"}),
    (
        "comments without a thread",
        _comments_without_thread,
        {"comments-without-thread", "thread-missing"},
    ),
]


@pytest.mark.parametrize(
    ("plant", "kinds"), [it[1:] for it in PLANTED], ids=[it[0] for it in PLANTED]
)
async def test_what_is_wrong_is_found(
    blog: Audited, plant: Callable[[Audited], str], kinds: set[str]
) -> None:
    article = plant(blog)
    make_healthy(blog)
    findings = await look(blog)
    assert findings.agreement is Agreement.DIVERGE
    assert sorted(codes(findings)) == sorted((article, it) for it in kinds)


def test_everything_that_the_blog_declares_is_planted_somewhere() -> None:
    assert {kind for _, _, kinds in PLANTED for kind in kinds} == DECLARED


async def test_comments_that_belong_to_nothing_at_all_are_found(blog: Audited) -> None:
    nowhere = new_id()
    blog.comment(nowhere)
    assert codes(await look(blog)) == [
        (nowhere, "comments-of-unknown-article"),
        (nowhere, "comments-without-thread"),
    ]


async def test_an_ended_saga_excuses_nothing(blog: Audited) -> None:
    saga = blog.saga(new_id(), ended=True)
    hidden = blog.article(hidden_by=saga)
    asked = blog.article(deletion_saga=blog.alias(saga))
    refused = blog.article(deletion_saga=blog.alias(None))
    dead_letter = blog.article(deletion_saga=(start := new_id()))
    blog.message(
        "articles", start, tables.outbox_dead, reason="given up", attempts=9, died_at=START
    )
    findings = await look(blog)
    assert sorted(it.id for it in findings.divergences) == sorted(
        [hidden, asked, refused, dead_letter]
    )


def _by_alias(blog: Audited) -> str:
    """Two asked for the deletion; the saga of the other one is at work."""
    return blog.alias(blog.saga("under another key"))


def _by_start(blog: Audited) -> str:
    blog.message("articles", saga := new_id())
    return saga


def _by_parked_start(blog: Audited) -> str:
    blog.message("articles", saga := new_id(), tables.outbox_parked)
    return saga


def _by_scheduled_start(blog: Audited) -> str:
    blog.message("articles", saga := new_id(), tables.outbox_scheduled, due_at=START)
    return saga


def _by_held_start(blog: Audited) -> str:
    blog.hold("orchestrator", id=(saga := new_id()))
    return saga


def _by_signal(blog: Audited) -> str:
    blog.signal(saga := new_id())
    return saga


@pytest.mark.parametrize(
    "make_saga",
    [
        lambda it: it.saga("another key"),
        _by_alias,
        _by_start,
        _by_parked_start,
        _by_scheduled_start,
        _by_held_start,
        _by_signal,
    ],
    ids=["live", "alias", "on its way", "parked", "scheduled", "held", "not applied"],
)
async def test_an_article_that_a_saga_is_at_work_on_is_left_out(
    blog: Audited, make_saga: Callable[[Audited], str]
) -> None:
    saga = make_saga(blog)
    blog.article(hidden_by=saga)
    blog.article(deletion_saga=saga)
    for closed in ({"closed_by": saga}, {"closed_by": saga, "known": Known.UNKNOWN}):
        blog.article(thread=closed)
    blog.comment(blog.article(), archived_by=saga)
    findings = await look(blog)
    assert codes(findings) == []
    assert findings.at_work == 5


async def test_a_saga_is_at_work_on_the_article_that_is_its_key(blog: Audited) -> None:
    blog.saga(blog.article_alone())
    assert codes(await look(blog)) == []


async def test_a_signal_that_is_no_start_begins_no_saga(blog: Audited) -> None:
    blog.signal(saga := new_id(), "cancel", answer="done")
    blog.article(deletion_saga=saga)
    assert len((await look(blog)).divergences) == 1
