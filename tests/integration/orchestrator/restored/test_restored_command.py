"""`sagabox restored`: what it writes into the database of a participant, and of an orchestrator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

import orchestrator.tables
from orchestrator.cli.restored.epochs import MORE
from orchestrator.machine.instance import Instance
from orchestrator.machine.machine import advance, start
from orchestrator.machine.signals import TimerFired, TimerKind
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store.records import Record, document_json, record_of, standing_of
from outbox import tables
from outbox.clock import SystemClock
from outbox.ids import compose, time_of
from tests.support.blog.audited import Audited
from tests.support.blog.blog import new_id
from tests.support.databases.migrating import Told
from tests.support.orchestrator.orchestrating import begun
from tests.support.processes.cli import sagabox, told_error

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
saga = orchestrator.tables.saga


def run(blog: Audited, *arguments: str) -> Told:
    """`sagabox restored` on these databases."""
    return sagabox(
        "restored",
        *arguments,
        **{f"SAGABOX_DATABASE_URL_{name.upper()}": it.url for name, it in blog.databases.items()},
    )


def told(blog: Audited, *arguments: str) -> dict[str, Any]:
    """What it said, after it did it."""
    found = run(blog, *arguments, "--json")
    assert found.code == 0, found
    document: dict[str, Any] = json.loads(found.out)
    return document


def id_of(ago: timedelta) -> str:
    """An id that was made so long ago."""
    moment = SystemClock().now() - ago
    return compose(round(moment.timestamp() * 1000), 7)


def mark(blog: Audited) -> Mapping[str, Any]:
    """The mark in the database of comments."""
    marks = tables.inbox_watermark
    with blog.engines["comments"].connect() as connection:
        (row,) = connection.execute(select(marks).where(marks.c.scope == "restored")).mappings()
    found: dict[str, Any] = dict(row)
    return found


def change_run(blog: Audited, id_: str, **columns: Any) -> None:
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(update(saga).where(saga.c.id == id_).values(**columns))


# A participant


def test_a_participant_is_told_which_runs_live(blog: Audited) -> None:
    live = blog.saga(new_id(), id=id_of(2 * HOUR))
    numbered = blog.saga(new_id(), id=id_of(9 * HOUR))
    number = id_of(HOUR)
    change_run(blog, numbered, number=number)
    blog.saga(new_id(), id=id_of(3 * HOUR), ended=True)
    document = told(blog, "comments")
    written = mark(blog)
    exempt = json.loads(written["except_ids"])
    assert {it[:8] for it in exempt} == {it[:8] for it in (live, numbered, number)}
    assert (written["consumer"], written["source"]) == ("comments", "orchestrator")
    assert (document["live"], document["is_cut"]) == (2, False)
    before = datetime.fromisoformat(document["before"])
    assert time_of(written["below"]) == before
    now = SystemClock().now()
    assert now - timedelta(minutes=5) < before <= now - timedelta(minutes=1)


def test_a_run_that_is_to_begin_later_is_none_that_lives(blog: Audited) -> None:
    scheduled = blog.saga(new_id(), id=id_of(2 * HOUR))
    change_run(blog, scheduled, begin_at=SystemClock().now() + HOUR)
    assert told(blog, "comments")["live"] == 0


def test_the_names_are_those_by_which_the_services_know_each_other(blog: Audited) -> None:
    since = SystemClock().now()
    for service, name in (("orchestrator", "conductor"), ("comments", "remarks")):
        with blog.engines[service].begin() as connection:
            connection.execute(
                insert(tables.outbox_service), [dict(only=1, name=name, since=since)]
            )
    document = told(blog, "comments")
    assert (document["service"], document["orchestrator"]) == ("remarks", "conductor")
    assert (mark(blog)["consumer"], mark(blog)["source"]) == ("remarks", "conductor")


def test_to_say_it_twice_moves_the_mark_and_makes_no_second_one(blog: Audited) -> None:
    first = blog.saga(new_id(), id=id_of(2 * HOUR))
    told(blog, "comments")
    below = mark(blog)["below"]
    change_run(blog, first, ended_at=SystemClock().now())
    told(blog, "comments")
    assert mark(blog)["below"] >= below
    assert json.loads(mark(blog)["except_ids"]) == []


def test_people_are_told_what_holds_and_what_comes_next(blog: Audited) -> None:
    found = run(blog, "comments")
    assert found.code == 0
    assert "comments takes no lost command any more of runs of orchestrator" in found.out
    assert "next: start the services, then: sagabox audit --runs" in found.out


# An orchestrator


def sent(ago: timedelta) -> tuple[Instance[Any], Record]:
    """A run that sent its first command so long ago, with its timers as stored."""
    moment = SystemClock().now() - ago
    transition = start(delete_article, id_of(ago), Deletion(new_id()), moment)
    return transition.instance, Record(begun(id=new_id())).after(transition, moment)


def store(blog: Audited, ago: timedelta) -> str:
    instance, record = sent(ago)
    blog.saga(instance.key, id=instance.id)
    change_run(
        blog,
        instance.id,
        document=document_json(record),
        due_at=record.due_at,
        state=json.dumps({"article_id": instance.key}),
    )
    return instance.id


def stored(blog: Audited, id_: str) -> Any:
    with blog.engines["orchestrator"].connect() as connection:
        return connection.execute(select(saga).where(saga.c.id == id_)).one()


def test_no_deadline_of_a_live_run_counts_before_the_grace_is_over(blog: Audited) -> None:
    id_ = store(blog, HOUR)
    overdue = stored(blog, id_)
    now = SystemClock().now()
    assert overdue.due_at < now
    document = told(blog, "orchestrator", "--grace", "30")
    until = datetime.fromisoformat(document["until"])
    assert now + HOUR / 2 <= until < now + HOUR
    assert (document["live"], document["postponed"]) == (1, 1)
    row = stored(blog, id_)
    deadlines = [
        *(it.due for it in standing_of(row.document).timers),
        *(
            run.awaited.deadline
            for run in standing_of(row.document).steps.values()
            if run.awaited is not None
        ),
    ]
    assert deadlines == [until, until]
    assert row.due_at == until
    assert row.revision == overdue.revision + 1


def test_a_run_whose_deadline_was_put_off_does_not_turn_back(blog: Audited) -> None:
    id_ = store(blog, HOUR)
    told(blog, "orchestrator")
    record = record_of(stored(blog, id_), delete_article)
    now = SystemClock().now()
    assert [it for it in record.timers if it.due <= now] == []
    # As it would have without the command: the same timer, and its time is over.
    (timer,) = record.timers
    fired = TimerFired(TimerKind.DEADLINE, timer.command_id)
    turned = advance(delete_article, record.instance, fired, now).instance
    assert turned.status.value == "COMPENSATING"


def test_a_later_deadline_and_an_ended_run_stay_as_they_are(blog: Audited) -> None:
    young = store(blog, timedelta(seconds=1))
    before = stored(blog, young)
    ended = blog.saga(new_id(), ended=True)
    change_run(blog, ended, document="not read")
    document = told(blog, "orchestrator", "--grace", "1")
    assert (document["live"], document["postponed"], document["unread"]) == (1, 0, [])
    assert stored(blog, young) == before


def test_a_run_that_this_version_cannot_read_is_named_and_left_alone(blog: Audited) -> None:
    odd = blog.saga(new_id())
    change_run(blog, odd, document="{not json")
    assert told(blog, "orchestrator")["unread"] == [odd]
    assert stored(blog, odd).document == "{not json"
    assert odd in run(blog, "orchestrator").out


# Both


@pytest.mark.parametrize("service", ["comments", "orchestrator"])
def test_no_lease_comes_round_to_the_epoch_of_a_process_from_before(
    blog: Audited, service: str
) -> None:
    lease = tables.outbox_lease
    long_ago = SystemClock().now() - HOUR
    held = dict(destination="articles", bucket=3, owner="one", epoch=5, expires_at=long_ago)
    with blog.engines[service].begin() as connection:
        connection.execute(insert(lease), [held])
    told(blog, service)
    with blog.engines[service].connect() as connection:
        (row,) = connection.execute(select(lease.c.epoch, lease.c.owner))
    assert row == (5 + MORE, None)


def test_the_lease_of_retention_comes_round_to_no_older_epoch_either(blog: Audited) -> None:
    """A process from before may sleep while it writes a file of the archive."""
    retention = orchestrator.tables.saga_retention
    soon = SystemClock().now() + HOUR
    below = id_of(HOUR)
    held = dict(only=1, owner="one", epoch=5, expires_at=soon, below=below)
    with blog.engines["orchestrator"].begin() as connection:
        connection.execute(insert(retention), [held])
    told(blog, "orchestrator")
    with blog.engines["orchestrator"].connect() as connection:
        row = connection.execute(select(retention)).one()
    assert (row.epoch, row.owner, row.below) == (5 + MORE, None, below)
    assert row.expires_at <= SystemClock().now(), "it is free"


@pytest.mark.parametrize("service", ["comments", "orchestrator"])
@pytest.mark.parametrize(
    "table", [tables.outbox_lease, tables.outbox_relay], ids=lambda it: it.name
)
def test_a_service_that_runs_is_refused_and_nothing_changes(
    blog: Audited, service: str, table: Any
) -> None:
    live = store(blog, HOUR)
    before = stored(blog, live)
    soon = SystemClock().now() + HOUR
    row = dict(destination="articles", owner="one", expires_at=soon)
    more = dict(bucket=3, epoch=5) if table is tables.outbox_lease else {}
    with blog.engines[service].begin() as connection:
        connection.execute(insert(table), [row | more])
    found = run(blog, service)
    assert found.code == 2
    assert f"{service} runs, or ran until a moment ago" in found.err
    assert f"stop all processes of {service}, wait 15 s" in found.err
    assert stored(blog, live) == before
    with blog.engines["comments"].connect() as connection:
        assert connection.execute(select(tables.inbox_watermark)).all() == []


def test_what_is_no_database_of_a_service_is_refused(blog: Audited, tmp_path: Any) -> None:
    (tmp_path / "new.sqlite").touch()
    found = run(blog, "comments", "--database", f"sqlite:///{tmp_path}/new.sqlite")
    assert found.code == 2
    assert "has not the tables of a service" in found.err


def test_the_orchestrator_of_a_participant_must_be_one(blog: Audited) -> None:
    found = run(blog, "comments", "--orchestrator", blog.databases["articles"].url, "--json")
    assert "no database of an orchestrator" in told_error(found)["happened"]
    found = run(blog, "orchestrator", "--orchestrator", blog.databases["articles"].url)
    assert found.code == 2
    assert "only a participant asks an orchestrator" in found.err
