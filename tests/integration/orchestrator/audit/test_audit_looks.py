"""`sagabox audit` looks twice: what heals by itself meanwhile is not told."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, insert, text
from sqlalchemy.exc import DBAPIError

from comments.model import Known
from orchestrator.cli.audit import looks, reading
from orchestrator.cli.audit.databases import opened
from orchestrator.cli.audit.looks import Agreement
from outbox import tables
from tests.support.blog.audited import Audited, codes, look, make_healthy
from tests.support.blog.blog import new_id

pytestmark = pytest.mark.slow


def _comments_of_unknown(blog: Audited) -> str:
    unknown = new_id()
    blog.thread(unknown, known=Known.UNKNOWN)
    blog.comment(unknown)
    return unknown


def _thread_of_unknown(blog: Audited) -> str:
    unknown = new_id()
    blog.thread(unknown)
    return unknown


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
    assert findings.agreement is Agreement.AGREE
    assert (findings.suspects, findings.followed, len(pauses)) == (1, 1, 1)


async def test_a_signal_that_waits_is_waited_for_unless_it_has_an_answer(blog: Audited) -> None:
    article = blog.article_alone()
    blog.signal(new_id(), "reply", answer="done")
    blog.signal(new_id(), "reply")

    async def apply(_: float) -> None:
        blog.thread(article)
        with blog.engines["orchestrator"].begin() as connection:
            connection.execute(text("DELETE FROM saga_signal WHERE answer IS NULL"))

    assert (await look(blog, pause=apply)).agreement is Agreement.AGREE


async def test_messages_that_come_after_the_first_look_are_not_waited_for(blog: Audited) -> None:
    """Otherwise an audit beside traffic would never end."""
    blog.article_alone()
    blog.message("articles")

    async def more(_: float) -> None:
        blog.message("articles")
        with blog.engines["articles"].begin() as connection:
            connection.execute(text("DELETE FROM outbox WHERE seq = 1"))

    findings = await look(blog, pause=more)
    assert findings.agreement is Agreement.DIVERGE
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

    assert (await look(blog, pause=park_then_deliver)).agreement is Agreement.AGREE
    assert len(pauses) == 2


async def test_a_message_that_its_receiver_holds_meanwhile_is_still_waited_for(
    blog: Audited,
) -> None:
    article = blog.article_alone()
    blog.message("articles")
    pauses = []

    async def hold_then_handle(_: float) -> None:
        pauses.append(1)
        if len(pauses) == 1:
            blog.deliver_all("articles")
            blog.hold("comments")
        else:
            blog.thread(article)
            with blog.engines["comments"].begin() as connection:
                connection.execute(tables.inbox_held.delete())

    assert (await look(blog, pause=hold_then_handle)).agreement is Agreement.AGREE
    assert len(pauses) == 2


async def test_what_a_receiver_has_given_up_is_not_waited_for(blog: Audited) -> None:
    blog.article_alone()
    blog.hold("comments", "dead")
    assert (await look(blog)).agreement is Agreement.DIVERGE


async def test_a_divergence_counts_only_if_it_is_the_same_in_both_looks(blog: Audited) -> None:
    article = blog.article(hidden_by=new_id())
    blog.message("articles")

    async def another_one(_: float) -> None:
        blog.change_article(article, hidden_by=new_id())
        blog.deliver_all("articles")

    assert (await look(blog, pause=another_one)).agreement is Agreement.AGREE


async def test_an_article_that_a_saga_takes_up_between_the_looks_is_left_out(
    blog: Audited,
) -> None:
    article = blog.article_alone()
    blog.message("articles")

    async def take_up(_: float) -> None:
        blog.saga(article)
        blog.deliver_all("articles")

    findings = await look(blog, pause=take_up)
    assert findings.agreement is Agreement.AGREE
    assert findings.at_work == 1


async def test_while_messages_rest_it_cannot_be_told(blog: Audited) -> None:
    article = blog.article_alone()
    blog.message("articles")
    blog.message("orchestrator", table=tables.outbox_parked)
    findings = await look(blog, timeout=0)
    assert findings.agreement is Agreement.INCONCLUSIVE
    assert codes(findings) == [(article, "thread-missing")]
    assert findings.resting == {"articles": 1, "orchestrator": 1}


async def test_messages_that_rest_matter_only_where_something_looks_wrong(blog: Audited) -> None:
    make_healthy(blog)
    blog.message("articles")
    assert (await look(blog, timeout=0)).agreement is Agreement.AGREE


async def test_every_article_is_looked_at_once_however_many_chunks_they_are(
    blog: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CHUNK", 2)
    wrong = [blog.article_alone() for _ in range(5)]
    wrong += [_thread_of_unknown(blog) for _ in range(5)]
    wrong += [_comments_of_unknown(blog) for _ in range(4)]
    for _ in range(5):
        nowhere = new_id()
        wrong += [nowhere, nowhere]
        blog.comment(nowhere)
        blog.comment(nowhere)
    findings = await look(blog)
    assert sorted(it.id for it in findings.divergences) == sorted(wrong)
    assert findings.compared == {"articles": 5, "threads": 9, "comments": 14}


async def test_no_more_than_so_many_are_looked_at_twice_and_the_rest_is_not_called_right(
    blog: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "MAX_SUSPECTS", 1)
    articles = [blog.article_alone() for _ in range(2)]
    blog.message("articles")

    async def heal(_: float) -> None:
        for article in articles:
            blog.thread(article)
        blog.deliver_all("articles")

    findings = await look(blog, pause=heal)
    assert (findings.suspects, findings.followed) == (2, 1)
    assert findings.agreement is Agreement.INCONCLUSIVE


@pytest.mark.parametrize("service", ["articles", "comments", "orchestrator"])
async def test_the_audit_cannot_write(blog: Audited, service: str) -> None:
    async with opened(blog.urls) as databases:
        (source,) = (it for it in databases.all if it.name == service)
        async with source.engine.connect() as connection:
            with pytest.raises(DBAPIError, match=r"read-only|readonly"):
                await connection.execute(insert(tables.schema_revision).values(revision="x"))


async def test_the_audit_waits_for_no_writer(blog: Audited) -> None:
    article = blog.article_alone()
    with blog.engines["articles"].begin() as connection:
        connection.execute(text("UPDATE articles SET title = 'changed'"))
        assert codes(await look(blog)) == [(article, "thread-missing")]
