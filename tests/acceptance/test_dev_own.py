"""`sagabox dev` with services of one's own: they and an orchestrator run, and nothing of the
blog's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.processes.developing import DEADLINE, running_dev
from tests.support.processes.guardian import started
from tests.support.processes.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # for one that has much else to do

_CONTRACT = """
from dataclasses import dataclass

from outbox import Command

@dataclass(frozen=True)
class Write(Command[None], type="articles.write.v1", key="text"):
    text: str

@dataclass(frozen=True)
class Erase(Command[None], type="articles.erase.v1", key="text"):
    text: str

@dataclass(frozen=True)
class Post(Command[None], type="mail.post.v1", key="text"):
    text: str
"""
# Its name is that of a service of the blog, and must not be taken for it.
_ARTICLES = """
import os

from sqlalchemy import create_engine

import outbox
from own_contract import Erase, Write
from outbox import tables

url = os.environ["SAGABOX_DATABASE_URL_ARTICLES"]
tables.metadata.create_all(create_engine(url))
service = outbox.Service("articles", create_engine(url))

@service.on(Write)
def write(session, command, context):
    return None

@service.on(Erase)
def erase(session, command, context):
    return None
"""
_LETTERS = """
import os

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import outbox
from own_contract import Post
from outbox import tables

url = os.environ["SAGABOX_DATABASE_URL_MAIL"]
tables.metadata.create_all(create_engine(url.replace("+aiosqlite", "")))
service = outbox.Service("mail", create_async_engine(url))

@service.on(Post)
async def post(session, command, context):
    return None
"""
_SAGA = """
from dataclasses import dataclass

from orchestrator import Saga, compensatable, retriable
from own_contract import Erase, Post, Write

@dataclass(frozen=True)
class Text:
    text: str

publish = Saga(
    name="publish", version=1, state=Text, key=lambda it: it.text,
    steps=[
        compensatable("write", lambda it: Write(it.text), compensation=lambda it: Erase(it.text)),
        retriable("post", lambda it: Post(it.text)),
    ],
)
"""
FILES = {
    "own_contract.py": _CONTRACT,
    "articles.py": _ARTICLES,
    "letters.py": _LETTERS,
    "own_saga.py": _SAGA,
}
WORDS = ("articles", "mail=letters:service")


def test_own_services_run_and_a_saga_of_them_ends(tmp_path: Path) -> None:
    settings = {"SAGABOX_SAGAS": "own_saga:publish"}
    with running_dev(tmp_path, settings, WORDS, FILES) as dev:
        first = {name: dev.wait_for_run(name, 1) for name in ("orchestrator", "articles", "mail")}
        at = f"http://127.0.0.1:{dev.first_port}"
        told = f"export SAGABOX_URL_ORCHESTRATOR={at}"
        wait_until(lambda: told in dev.output, DEADLINE, "it says that all runs, and where")
        sagas = httpx.get(f"{at}/definitions", timeout=60).json()["items"]
        assert [it["name"] for it in sagas] == ["publish"]
        os.kill(first["mail"], signal.SIGKILL)
        run = httpx.post(
            f"{at}/sagas/publish", json={"text": "a"}, headers={"prefer": "wait=30"}, timeout=60
        )
        dev.wait_for_run("mail", 2)
        id_ = run.json()["id"]
        wait_until(
            lambda: httpx.get(f"{at}/sagas/{id_}", timeout=60).json()["status"] == "COMPLETED",
            DEADLINE,
            "the saga ends, though a service died",
        )
        assert dev.press_ctrl_c() == 0, dev.output
        folder = dev.folder / ".sagabox"
        assert {it.stem for it in folder.glob("*.sqlite")} == {"articles", "mail", "orchestrator"}
        assert [it for it in first.values() if started(it)] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("letters:service",), "sagabox dev mail=letters:service"),
        (("articles", "articles:service"), "another service has that name"),
        (("orchestrator=articles",), "the orchestrator has that name"),
        (("nowhere:service",), "there is no module 'nowhere'"),
    ],
    ids=["another name", "twice", "the orchestrator's", "no module"],
)
def test_what_cannot_be_run_is_told_before_any_process_starts(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    settings = {"SAGABOX_DATABASE_URL_MAIL": f"sqlite+aiosqlite:///{tmp_path}/mail.sqlite"}
    with running_dev(tmp_path, settings, words, FILES) as dev:
        assert dev.process.wait(DEADLINE) == 2, dev.output
        assert told in dev.output
        assert "Traceback" not in dev.output
        assert "serves at" not in dev.output
