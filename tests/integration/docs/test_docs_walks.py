"""What the pages tell a reader to type does what they say, typed at a running `sagabox dev`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from orchestrator.cli.processes.services import BLOG_SAGAS, SERVICES
from orchestrator.machine.instance import Status
from tests.support.checkout import ROOT
from tests.support.processes.developing import DEADLINE, Dev, running_dev
from tests.support.processes.waiting import wait_until
from tests.support.repository.manual import Terminal, Told, commands

pytestmark = pytest.mark.timeout(300)  # for a machine that has much else to do

_PAGE = "docs/operate/operating.md"
_STICKY = '''"""A saga whose first answer cannot be taken in, except for one article."""

from dataclasses import dataclass

from articles.contract import ArticleHidden, HideArticle, UnhideArticle
from orchestrator import Saga, compensatable


@dataclass(frozen=True)
class Hold:
    article_id: str

    def note_hidden(self, article: ArticleHidden) -> "Hold":
        if article.title != "Tides":
            raise ValueError(f"{article.title} is not the right one")
        return self


hold = Saga(
    name="hold-article",
    version=1,
    state=Hold,
    key=lambda it: it.article_id,
    steps=[
        compensatable(
            "hide article",
            lambda it: HideArticle(it.article_id),
            on_reply=Hold.note_hidden,
            compensation=lambda it: UnhideArticle(it.article_id),
        )
    ],
)
'''


@pytest.fixture(autouse=True)
def curl_is_there() -> None:
    assert shutil.which("curl"), "the pages use curl; install it"


def write(dev: Dev, title: str) -> str:
    """A new article that comments knows; its id."""
    article = {"title": title, "body": "Twice a day.", "author": "ada"}
    answer = httpx.post(dev.url("articles") + "/articles", json=article, timeout=DEADLINE)
    id_: str = answer.raise_for_status().json()["id"]
    thread = f"{dev.url('comments')}/threads/{id_}"
    wait_until(
        lambda: httpx.get(thread, timeout=DEADLINE).is_success,
        DEADLINE,
        "comments knows the article",
    )
    return id_


def is_deleting(dev: Dev, article: str) -> bool:
    answer = httpx.get(f"{dev.url('articles')}/articles/{article}", timeout=DEADLINE).json()
    return bool(answer.get("status") == "deleting")


def start(dev: Dev, saga: str, article: str, status: Status) -> str:
    """Have the article worked on, and wait until the run stands like that; its id."""
    at = dev.url("orchestrator") + "/sagas/"
    begun = httpx.post(at + saga, json={"article_id": article}, timeout=DEADLINE)
    id_: str = begun.json()["id"]

    def stands() -> bool:
        return bool(httpx.get(at + id_, timeout=DEADLINE).json()["status"] == status)

    wait_until(stands, DEADLINE, status)
    return id_


def test_the_readme_can_be_followed_to_the_letter(tmp_path: Path) -> None:
    with running_dev(tmp_path) as dev:
        for name in SERVICES:
            dev.wait_for_run(name, 1)
        reader = Terminal(dev)
        told = [_typed(reader, command) for command in commands("README.md", "bash")]
        assert dev.press_ctrl_c() == 0, dev.output
    answers = iter([it for it in told if it.out])

    def answer(beginning: str) -> Told:
        return next(it for it in answers if it.command.startswith(beginning))

    article = answer("curl -X POST localhost:8001/articles").json()["id"]
    comment = answer("curl -X POST localhost:8002/comments").json()
    assert comment["article_id"] == article
    assert answer("curl -X PUT").json()["legal_hold"] == "a lawsuit"
    refused = answer("curl -X DELETE").json()["saga_id"]
    watched = answer("sagabox watch")
    assert (watched.code, f"{refused} ended COMPENSATED" in watched.out) == (1, True), watched
    assert answer('curl "localhost:8002/comments').json()["items"] == [comment]
    done = answer("curl -X DELETE").json()["saga_id"]
    assert done != refused
    watched = answer("sagabox watch")
    assert (watched.code, f"{done} ended COMPLETED" in watched.out) == (0, True), watched
    assert answer("curl localhost:8001/articles").json()["code"] == "article-deleted"
    assert answer('curl "localhost:8002/comments').json()["items"] == []
    assert {refused, done} == set(re.findall(r"^[0-9a-f-]{36}", answer("sagabox list").out, re.M))
    assert "answered [purge comments]: done" in answer("sagabox show").out
    audit = answer("sagabox audit")
    assert (audit.code, "articles and comments agree" in audit.out) == (0, True), audit
    assert next(answers, None) is None


def _typed(reader: Terminal, command: str) -> Told:
    """Type it when a person would have: comments has heard of the article, and articles of the end
    of its saga."""
    told = reader.type(command)
    if "POST localhost:8002" in command:

        def accepted() -> bool:
            nonlocal told
            if "unknown-article" in told.out:
                told = reader.type(command)
            return "content" in told.json()

        wait_until(accepted, DEADLINE, "the comment is accepted")
    if "sagabox watch" in command:
        article = reader.variables["ARTICLE"]
        wait_until(lambda: not is_deleting(reader.dev, article), DEADLINE, "articles heard of it")
    return told


@pytest.fixture
def sticky(tmp_path: Path) -> dict[str, str]:
    """The settings by which `dev` also runs a saga that gets stuck."""
    folder = tmp_path / "sagas"
    folder.mkdir()
    (folder / "sticky_saga.py").write_text(_STICKY)
    return {
        "PYTHONPATH": str(folder),
        "SAGABOX_SAGAS": f"{BLOG_SAGAS},sticky_saga:hold",
        "SAGABOX_LOG_FORMAT": "json",
    }


def test_the_commands_of_the_page_on_operating_do_what_it_says(
    tmp_path: Path, sticky: dict[str, str]
) -> None:
    with running_dev(tmp_path, sticky) as dev:
        for name in SERVICES:
            dev.wait_for_run(name, 1)
        held = write(dev, "Ebb")
        doomed = write(dev, "Flood")
        person = Terminal(dev)
        person.variables |= {
            "SAGA": start(dev, "delete-article", write(dev, "Tides"), Status.COMPLETED),
            "STUCK": start(dev, "hold-article", write(dev, "Ebb"), Status.STUCK),
            "STUCK2": start(dev, "hold-article", held, Status.STUCK),
            "STUCK3": start(dev, "hold-article", write(dev, "Ebb"), Status.STUCK),
            # The article is another run's, so this one asks again and again.
            "PAUSED": start(dev, "hold-article", held, Status.RUNNING),
        }
        seen: list[str] = []
        for command in commands(_PAGE, "bash"):
            told = person.type(command)
            _check(dev, person, told, seen)
            if "backup.sqlite" in command and command.startswith("python"):
                start(dev, "delete-article", doomed, Status.COMPLETED)
        assert seen == list(_EXPECTED)
        assert dev.press_ctrl_c() == 0, dev.output


def _status(person: Terminal, variable: str) -> str:
    saga = f"{person.dev.url('orchestrator')}/sagas/{person.variables[variable]}"
    status: str = httpx.get(saga, timeout=DEADLINE).json()["status"]
    return status


def _ids(told: Told) -> set[str]:
    return set(re.findall(r"^[0-9a-f-]{36}", told.out, re.M))


def _has_all_metrics(person: Terminal, told: Told) -> None:
    page = (ROOT / _PAGE).read_text()
    named = set(re.findall(r"^\| `(sagabox_\w+?)(?:_total)?[{`]", page, re.M))
    here = set(re.findall(r"^# TYPE (\w+) (?:gauge|counter|histogram)$", told.out, re.M))
    here = {it.removesuffix("_total") for it in here if not it.endswith("_created")}
    # Of services on a synchronous database alone, and of those that read a queue.
    elsewhere = {"sagabox_handler_threads_given_up"} | {it for it in named if "_queue_" in it}
    assert named - elsewhere == here
    assert 'sagabox_sagas{name="hold-article",status="STUCK"} 3.0' in told.out


def _follows(person: Terminal, told: Told) -> None:
    lines = [json.loads(it) for it in told.out.splitlines()]
    ours = [it for it in lines if it.get("saga") == person.variables["SAGA"]]
    assert [it for it in ours if "COMPLETED" in it["event"]], told
    at = f"{person.dev.url('orchestrator')}/sagas/{person.variables['SAGA']}"
    assert {it["trace_id"] for it in ours} == {httpx.get(at, timeout=DEADLINE).json()["trace_id"]}
    assert all({"timestamp", "level", "logger", "event"} <= it.keys() for it in lines)


def _shows_what_is_possible(person: Terminal, told: Told) -> None:
    assert "its answer could not be taken in" in told.out
    for verb in ("cancel", "pause", "resolve", "retry", "skip", "terminate"):
        assert f"  sagabox {verb} {person.variables['STUCK']}" in told.out


def _tells_of_locks_that_were_left(person: Terminal, told: Told) -> None:
    assert told.code == 1
    assert "an article is hidden only while the saga that hid it lives" in told.out
    assert person.variables["STUCK3"] in told.out


def _tells_what_a_restore_would_break(person: Terminal, told: Told) -> None:
    assert told.code == 1
    codes = {it["code"] for it in told.json()["divergences"]}
    assert "thread-of-deleted-article" in codes


def _clears_what_ended_runs_left(person: Terminal, told: Told) -> None:
    assert told.code == 0, told
    assert "release-article" in told.out
    assert told.out.rstrip().endswith("articles and comments agree")


def _ended(variable: str, status: Status) -> Callable[[Terminal, Told], None]:
    def check(person: Terminal, told: Told) -> None:
        # A command that makes the run go on does not wait for where it comes to.
        wait_until(lambda: _status(person, variable) == status, DEADLINE, f"{status}: {told}")

    return check


def _lists(*variables: str) -> Callable[[Terminal, Told], None]:
    def check(person: Terminal, told: Told) -> None:
        assert _ids(told) == {person.variables[it] for it in variables}, told

    return check


def _nothing_more(_person: Terminal, _told: Told) -> None:
    """That it ended with 0 is all that there is to see."""


_EXPECTED: dict[str, Callable[[Terminal, Told], None]] = {
    "curl -sf localhost:8000/livez": _nothing_more,
    "curl -sf localhost:8000/readyz": _nothing_more,
    "curl -sf localhost:8000/metrics": _has_all_metrics,
    "sagabox list --status RUNNING --status COMPENSATING --older-than 1h": _lists(),
    "grep": _follows,
    'sagabox show "$SAGA" --history': lambda _, told: _says(told, "ended: COMPLETED"),
    "sagabox list --status STUCK": _lists("STUCK", "STUCK2", "STUCK3"),
    'sagabox show "$STUCK"': _shows_what_is_possible,
    "sagabox retry": _ended("STUCK", Status.STUCK),
    "sagabox skip": _ended("STUCK", Status.COMPLETED),
    "sagabox resolve": _ended("STUCK2", Status.RESOLVED),
    "sagabox terminate": _ended("STUCK3", Status.TERMINATED),
    "sagabox pause": lambda _, told: _says(told, "paused"),
    "sagabox resume": _ended("PAUSED", Status.RUNNING),
    "sagabox dead-letters": lambda _, told: _says(told, "attempts"),
    "sagabox dead-letters --destination": lambda _, told: _says(told, '"items"'),
    "sagabox list --name delete-article": _lists(),
    "python -c": _nothing_more,
    "sagabox audit": _tells_of_locks_that_were_left,
    "sagabox audit --json": _tells_what_a_restore_would_break,
    "sagabox audit --repair": _clears_what_ended_runs_left,
}
"""What each command of the page, by its beginning, has to show."""


def _says(told: Told, what: str) -> None:
    assert what in told.out, told


def _check(dev: Dev, person: Terminal, told: Told, seen: list[str]) -> None:
    beginning = max((it for it in _EXPECTED if told.command.startswith(it)), key=len, default=None)
    assert beginning is not None, f"what is to be seen of {told.command!r}?"
    assert told.code == 0 or "audit" in told.command, (told, dev.output)
    _EXPECTED[beginning](person, told)
    seen.append(beginning)
