"""`sagabox audit`: it finds what is wrong, and nothing that is only on its way."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Table, insert, text
from sqlalchemy.exc import DBAPIError

from comments.model import Known
from orchestrator.cli import audit_looks, audit_reading
from orchestrator.cli.audit_databases import Source, opened
from orchestrator.cli.audit_looks import Findings, Verdict, compare
from orchestrator.cli.divergences import Kind
from outbox import tables
from tests.support.audited import Audited
from tests.support.blog import START, new_id
from tests.support.cli import sagabox, told_error
from tests.support.databases import Kind as DatabaseKind
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.migrating import Told
from tests.support.waiting import free_port

DEAD = new_id()  # a saga that no database knows


@pytest.fixture
def blog(database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine) -> Audited:
    """The three databases, empty."""
    return Audited(database_factory, make_sync_engine)


async def _at_once(_: float) -> None:
    raise AssertionError("there was nothing to wait for")


async def look(
    blog: Audited, *, timeout: float = 60, pause: Callable[[float], Awaitable[None]] = _at_once
) -> Findings:
    """Audit it. `pause` is what happens while it waits for messages."""
    async with opened(blog.urls) as databases:
        return await compare(databases, timeout=timeout, pause=pause)


def codes(findings: Findings) -> list[tuple[str, str]]:
    """Which article has what."""
    return [(it.article_id, it.code) for it in findings.divergences]


def make_healthy(blog: Audited) -> None:
    """Everything that may be there while nothing is wrong."""
    commented = blog.article(version=3, thread={"version": 3})
    blog.comment(commented)
    blog.comment(commented)
    blog.tombstone()
    blog.tombstone(thread={"purged_at": None})
    blog.thread(new_id(), known=Known.UNKNOWN)  # a saga's mark, before anything was heard
    blog.article(thread={"version": 7})  # edited between the looks at the two databases
    saga = blog.saga(new_id(), ended=True)
    blog.alias(saga)
    busy = new_id()
    saga = blog.saga(busy)
    blog.article(id=busy, hidden_by=saga, deletion_saga=saga, thread={"closed_by": saga})
    blog.comment(busy, archived_by=saga)


async def test_nothing_is_found_where_nothing_is_wrong(blog: Audited) -> None:
    make_healthy(blog)
    findings = await look(blog)
    assert findings.verdict is Verdict.AGREE
    assert codes(findings) == []
    assert (findings.articles, findings.threads, findings.comments) == (5, 6, 3)
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


PLANTED: list[tuple[str, Callable[[Audited], str], set[Kind]]] = [
    ("comments of a deleted article", _comments_of_deleted, {Kind.COMMENTS_OF_DELETED_ARTICLE}),
    (
        "archived comments of a deleted article",
        _archived_comments_of_deleted,
        {Kind.COMMENTS_OF_DELETED_ARTICLE},
    ),
    (
        "an open thread of a deleted article",
        lambda it: it.tombstone(thread={"known": Known.PUBLISHED, "purged_at": None}),
        {Kind.THREAD_OF_DELETED_ARTICLE},
    ),
    ("no thread", lambda it: it.article_alone(), {Kind.THREAD_MISSING}),
    (
        "a thread that has heard nothing",
        lambda it: it.article(thread={"known": Known.UNKNOWN}),
        {Kind.THREAD_MISSING},
    ),
    ("an old version", lambda it: it.article(version=2), {Kind.THREAD_BEHIND}),
    (
        "a closed thread",
        lambda it: it.article(thread={"closed_by": DEAD}),
        {Kind.THREAD_NOT_OPEN},
    ),
    (
        "a thread that is gone",
        lambda it: it.article(thread={"known": Known.DELETED}),
        {Kind.THREAD_NOT_OPEN},
    ),
    (
        "a purged thread",
        lambda it: it.article(thread={"purged_at": START}),
        {Kind.THREAD_NOT_OPEN},
    ),
    ("archived comments", _archived_comments, {Kind.ARCHIVED_COMMENTS}),
    ("a hidden article", lambda it: it.article(hidden_by=DEAD), {Kind.HIDDEN_ARTICLE}),
    (
        "a deletion that never began",
        lambda it: it.article(deletion_saga=DEAD),
        {Kind.DELETION_WITHOUT_SAGA},
    ),
    ("comments of nothing", _comments_of_unknown, {Kind.COMMENTS_OF_UNKNOWN_ARTICLE}),
    ("a thread of nothing", _thread_of_unknown, {Kind.THREAD_OF_UNKNOWN_ARTICLE}),
    (
        "comments without a thread",
        _comments_without_thread,
        {Kind.COMMENTS_WITHOUT_THREAD, Kind.THREAD_MISSING},
    ),
]


@pytest.mark.parametrize(
    ("plant", "kinds"), [it[1:] for it in PLANTED], ids=[it[0] for it in PLANTED]
)
async def test_what_is_wrong_is_found(
    blog: Audited, plant: Callable[[Audited], str], kinds: set[Kind]
) -> None:
    article = plant(blog)
    make_healthy(blog)
    findings = await look(blog)
    assert findings.verdict is Verdict.DIVERGE
    assert sorted(codes(findings)) == sorted((article, it.code) for it in kinds)


def test_each_kind_of_divergence_is_planted_somewhere() -> None:
    assert {kind for _, _, kinds in PLANTED for kind in kinds} == set(Kind)


async def test_comments_that_belong_to_nothing_at_all_are_found(blog: Audited) -> None:
    nowhere = new_id()
    blog.comment(nowhere)
    assert codes(await look(blog)) == [
        (nowhere, Kind.COMMENTS_OF_UNKNOWN_ARTICLE.code),
        (nowhere, Kind.COMMENTS_WITHOUT_THREAD.code),
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
    assert sorted(it.article_id for it in findings.divergences) == sorted(
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
        _by_signal,
    ],
    ids=["live", "alias", "on its way", "parked", "scheduled", "not applied"],
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


@pytest.mark.parametrize("service", ["articles", "comments", "orchestrator"])
@pytest.mark.parametrize("table", [tables.outbox, tables.outbox_parked], ids=["outbox", "parked"])
async def test_what_heals_when_the_messages_of_the_first_look_arrive_is_not_told(
    blog: Audited, service: str, table: Table
) -> None:
    article = blog.article_alone()
    blog.message(service, table=table)
    pauses = []

    async def arrive(seconds: float) -> None:
        pauses.append(seconds)
        blog.thread(article)
        with blog.engines[service].begin() as connection:
            connection.execute(table.delete())

    findings = await look(blog, pause=arrive)
    assert findings.verdict is Verdict.AGREE
    assert (findings.suspects, findings.followed, len(pauses)) == (1, 1, 1)


async def test_a_signal_that_waits_is_waited_for_unless_it_has_an_answer(blog: Audited) -> None:
    article = blog.article_alone()
    blog.signal(new_id(), "reply", answer="done")
    blog.signal(new_id(), "reply")

    async def apply(_: float) -> None:
        blog.thread(article)
        with blog.engines["orchestrator"].begin() as connection:
            connection.execute(text("DELETE FROM saga_signal WHERE answer IS NULL"))

    assert (await look(blog, pause=apply)).verdict is Verdict.AGREE


async def test_messages_that_come_after_the_first_look_are_not_waited_for(blog: Audited) -> None:
    """Otherwise an audit beside traffic would never end."""
    blog.article_alone()
    blog.message("articles")

    async def more(_: float) -> None:
        blog.message("articles")
        with blog.engines["articles"].begin() as connection:
            connection.execute(text("DELETE FROM outbox WHERE seq = 1"))

    findings = await look(blog, pause=more)
    assert findings.verdict is Verdict.DIVERGE
    assert findings.resting == {}


async def test_a_message_that_is_parked_meanwhile_is_still_waited_for(blog: Audited) -> None:
    article = blog.article_alone()
    blog.message("articles")
    pauses = []

    async def park_then_deliver(_: float) -> None:
        pauses.append(1)
        if len(pauses) == 1:
            blog.deliver_all("articles")
            blog.message("articles", table=tables.outbox_parked)
        else:
            blog.thread(article)
            with blog.engines["articles"].begin() as connection:
                connection.execute(tables.outbox_parked.delete())

    assert (await look(blog, pause=park_then_deliver)).verdict is Verdict.AGREE
    assert len(pauses) == 2


async def test_a_divergence_counts_only_if_it_is_the_same_in_both_looks(blog: Audited) -> None:
    article = blog.article(hidden_by=new_id())
    blog.message("articles")

    async def another_one(_: float) -> None:
        blog.change_article(article, hidden_by=new_id())
        blog.deliver_all("articles")

    assert (await look(blog, pause=another_one)).verdict is Verdict.AGREE


async def test_an_article_that_a_saga_takes_up_between_the_looks_is_left_out(
    blog: Audited,
) -> None:
    article = blog.article_alone()
    blog.message("articles")

    async def take_up(_: float) -> None:
        blog.saga(article)
        blog.deliver_all("articles")

    findings = await look(blog, pause=take_up)
    assert findings.verdict is Verdict.AGREE
    assert findings.at_work == 1


async def test_while_messages_rest_it_cannot_be_told(blog: Audited) -> None:
    article = blog.article_alone()
    blog.message("articles")
    blog.message("orchestrator", table=tables.outbox_parked)
    findings = await look(blog, timeout=0)
    assert findings.verdict is Verdict.INCONCLUSIVE
    assert codes(findings) == [(article, "thread-missing")]
    assert findings.resting == {"articles": 1, "orchestrator": 1}


async def test_messages_that_rest_matter_only_where_something_looks_wrong(blog: Audited) -> None:
    make_healthy(blog)
    blog.message("articles")
    assert (await look(blog, timeout=0)).verdict is Verdict.AGREE


async def test_every_article_is_looked_at_once_however_many_chunks_they_are(
    blog: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_reading, "CHUNK", 2)
    wrong = [blog.article_alone() for _ in range(5)]
    wrong += [_thread_of_unknown(blog) for _ in range(5)]
    wrong += [_comments_of_unknown(blog) for _ in range(4)]
    for _ in range(5):
        nowhere = new_id()
        wrong += [nowhere, nowhere]
        blog.comment(nowhere)
        blog.comment(nowhere)
    findings = await look(blog)
    assert sorted(it.article_id for it in findings.divergences) == sorted(wrong)
    assert (findings.articles, findings.threads, findings.comments) == (5, 9, 14)


async def test_no_more_than_so_many_are_looked_at_twice_and_the_rest_is_not_called_right(
    blog: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_looks, "MAX_SUSPECTS", 1)
    articles = [blog.article_alone() for _ in range(2)]
    blog.message("articles")

    async def heal(_: float) -> None:
        for article in articles:
            blog.thread(article)
        blog.deliver_all("articles")

    findings = await look(blog, pause=heal)
    assert (findings.suspects, findings.followed) == (2, 1)
    assert findings.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("service", ["articles", "comments", "orchestrator"])
async def test_the_audit_cannot_write(blog: Audited, service: str) -> None:
    async with opened(blog.urls) as databases:
        source: Source = getattr(databases, service)
        async with source.engine.connect() as connection:
            with pytest.raises(DBAPIError, match=r"read-only|readonly"):
                await connection.execute(insert(tables.schema_revision).values(revision="x"))


async def test_the_audit_waits_for_no_writer(blog: Audited) -> None:
    article = blog.article_alone()
    with blog.engines["articles"].begin() as connection:
        connection.execute(text("UPDATE articles SET title = 'changed'"))
        assert codes(await look(blog)) == [(article, "thread-missing")]


def run(blog: Audited, *arguments: str) -> Told:
    """`sagabox audit` on these databases."""
    return sagabox("audit", *arguments, **_variables(blog))


def test_the_command_tells_what_was_compared_and_that_all_is_well(blog: Audited) -> None:
    make_healthy(blog)
    told = run(blog)
    assert told.code == 0
    assert "articles and comments agree" in told.out
    document = json.loads(run(blog, "--json").out)
    assert document["verdict"] == "agree"
    assert document["compared"] == {"articles": 5, "threads": 6, "comments": 3}


def test_the_command_tells_what_is_wrong_and_ends_with_1(blog: Audited) -> None:
    article = blog.article(hidden_by=DEAD)
    told = run(blog)
    assert told.code == 1
    assert article in told.out
    assert Kind.HIDDEN_ARTICLE.value in told.out
    told = run(blog, "--json")
    assert told.code == 1
    assert json.loads(told.out)["divergences"] == [
        {
            "article_id": article,
            "code": "hidden-article",
            "should_be": Kind.HIDDEN_ARTICLE.value,
            "saga_id": DEAD,
            "detail": None,
        }
    ]


def test_the_command_ends_with_4_while_it_cannot_tell(blog: Audited) -> None:
    blog.article_alone()
    blog.message("comments")
    told = run(blog, "--timeout", "0")
    assert told.code == 4
    assert "1 messages rest in the database of comments" in told.out
    assert json.loads(run(blog, "--timeout", "0", "--json").out)["resting"] == {"comments": 1}


def test_a_database_that_is_not_named_is_told_with_its_variable(blog: Audited) -> None:
    told = sagabox("audit", "--json", **_variables(blog) | {"SAGABOX_DATABASE_URL_COMMENTS": None})
    assert told.code == 2
    assert "SAGABOX_DATABASE_URL_COMMENTS" in told_error(told)["why"]


def test_an_option_counts_more_than_the_environment(blog: Audited) -> None:
    told = run(blog, "--articles", "nonsense://ada:secret@host/name", "--json")
    assert told.code == 2
    assert "of articles cannot be used" in told_error(told)["happened"]
    assert "secret" not in told.err


def test_a_database_that_cannot_be_reached_is_told_with_exit_code_3(
    blog: Audited, database_kind: str
) -> None:
    if database_kind == DatabaseKind.SQLITE:
        url = "sqlite:////no/such/folder/comments.sqlite"
    else:
        url = f"postgresql://127.0.0.1:{free_port()}/comments"
    told = run(blog, "--comments", url, "--json")
    assert told.code == 3
    assert "comments" in told_error(told)["happened"]


def test_a_database_without_the_tables_is_told_with_the_command_that_makes_them(
    blog: Audited, database_factory: DatabaseFactory
) -> None:
    empty = database_factory("empty")
    for name in blog.databases:
        told = run(blog, f"--{name}", empty.url, "--json")
        assert told.code == 2
        assert told_error(told)["next_step"] == f"sagabox migrate upgrade {name}"


def _variables(blog: Audited) -> dict[str, str | None]:
    return {
        f"SAGABOX_DATABASE_URL_{name.upper()}": database.url
        for name, database in blog.databases.items()
    }
