"""`sagabox audit` on the command line: what it prints, and how it ends."""

from __future__ import annotations

import json

import pytest

from tests.support.blog.audited import Audited, make_healthy
from tests.support.blog.blog import new_id
from tests.support.databases.databases import Kind as DatabaseKind
from tests.support.databases.migrating import Told
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.cli import sagabox, told_error
from tests.support.processes.waiting import free_port

pytestmark = pytest.mark.slow

DEAD = new_id()  # a saga that no database knows


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
    assert "an article is hidden only while the saga that hid it lives" in told.out
    told = run(blog, "--json")
    assert told.code == 1
    assert json.loads(told.out)["divergences"] == [
        {
            "entity": "article",
            "id": article,
            "code": "hidden-article",
            "should_be": "an article is hidden only while the saga that hid it lives",
            "saga_id": DEAD,
            "detail": None,
            "repair": "release-article",
            "decide": None,
        }
    ]


def test_the_command_ends_with_4_while_it_cannot_tell(blog: Audited) -> None:
    blog.article_alone()
    blog.message("comments")
    told = run(blog, "--timeout", "0")
    assert told.code == 4
    assert "1 message rests in the database of comments" in told.out
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
        assert told_error(told)["next_step"] == (
            f"sagabox migrate upgrade {name}; or say what its tables begin with: "
            f"--tables {name}=PREFIX"
        )


def _variables(blog: Audited) -> dict[str, str | None]:
    return {
        f"SAGABOX_DATABASE_URL_{name.upper()}": database.url
        for name, database in blog.databases.items()
    }
