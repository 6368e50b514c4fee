"""People who publish, comment, put on hold and delete while services come and go, and a note of all
that was promised to them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Any

import httpx

from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import until

_PAUSE = 0.05  # seconds before a reader asks again
_HELD = (1, 3)  # which of five articles, so that a short round has both ends, too
_HOLD_PATIENCE = 100


class Hold(Enum):
    """Whether an article is on legal hold when its deletion is asked for."""

    NO = auto()
    YES = auto()
    PERHAPS = auto()
    """It came beside the deletion, or it is unknown whether it came: both ends are right."""


@dataclass
class Life:
    """One article, and what was answered to those who did something to it.

    `accepted` are the texts of comments that were, `unsure` of those whose answer was lost.
    """

    article: str
    hold: Hold = Hold.NO
    accepted: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    sagas: list[str] = field(default_factory=list)


class Traffic:
    """`lives` has every article; `answers` counts answers by status, and those that never came as
    "lost", and `losses` says why. `mistakes` are answers that are the fault of the service alone.
    People wait `patience` seconds for an answer."""

    def __init__(self, blog: RunningBlog, chance: Random, patience: float = 6) -> None:
        self.lives: list[Life] = []
        self.answers: dict[str, int] = {}
        self.losses: list[str] = []
        self.mistakes: list[str] = []
        self._blog = blog
        self._chance = chance
        self._patience = patience
        self._number = 0

    async def run(self, stop: asyncio.Event, people: int, pause: float) -> None:
        """So many people, each with one article after another, until `stop` is set."""

        async def person() -> None:
            while not stop.is_set():
                await self._live()
                await asyncio.sleep(self._chance.random() * 2 * pause)

        await asyncio.gather(*(person() for _ in range(people)))

    def has_both_ends(self) -> bool:
        """Whether a deletion was accepted that a legal hold must refuse, and one without any."""
        return {it.hold for it in self.lives if it.sagas} >= {Hold.YES, Hold.NO}

    async def _live(self) -> None:
        article = {"title": "Tides", "body": "Once upon a time", "author": "ada"}
        made = await self._ask("articles", "POST", "/articles", json=article)
        if made is None or made.status_code != 201:
            await asyncio.sleep(_PAUSE)
            return
        life = Life(made.json()["id"])
        self.lives.append(life)
        is_held = len(self.lives) % 5 in _HELD  # before others begin theirs meanwhile
        for _ in range(self._chance.randint(0, 3)):
            await self._comment(life, patience=20)
        if is_held:
            await self._hold(life, patience=_HOLD_PATIENCE)
        beside = [self._delete(life), *(self._comment(life) for _ in range(3))]
        if self._chance.random() < 0.15:
            beside.append(self._delete(life))
        if self._chance.random() < 0.1 and life.hold is Hold.NO:
            life.hold = Hold.PERHAPS
            beside.append(self._hold(life))
        await asyncio.gather(*beside)

    async def _comment(self, life: Life, patience: int = 0) -> None:
        """A comment; where the news of the article has not come yet, `patience` more attempts."""
        self._number += 1
        text = f"comment {self._number}"
        comment = {"article_id": life.article, "author": "bob", "content": text}
        for _ in range(patience + 1):
            answer = await self._ask("comments", "POST", "/comments", json=comment)
            if answer is None or answer.status_code >= 500:
                life.unsure.add(text)
                return
            if answer.status_code == 201:
                life.accepted.add(text)
                return
            if answer.status_code != 404:
                return
            await asyncio.sleep(_PAUSE)

    async def _hold(self, life: Life, patience: int = 0) -> None:
        """A legal hold; where the answer is 503 or lost, `patience` more attempts."""
        path, why = f"/articles/{life.article}/legal-hold", {"reason": "a lawsuit"}
        for _ in range(patience + 1):
            answer = await self._ask("articles", "PUT", path, json=why)
            if answer is not None and answer.status_code < 500:
                break
            await asyncio.sleep(_PAUSE)
        if life.hold is Hold.NO:
            certain = answer is not None and answer.status_code == 200
            life.hold = Hold.YES if certain else Hold.PERHAPS

    async def _delete(self, life: Life) -> None:
        answer = await self._ask("articles", "DELETE", f"/articles/{life.article}")
        if answer is not None and answer.status_code == 202:
            life.sagas.append(answer.json()["saga_id"])

    async def _ask(self, name: str, method: str, path: str, **more: Any) -> httpx.Response | None:
        try:
            answer = await self._blog.ask(name, method, path, timeout=self._patience, **more)
        except httpx.TransportError as error:
            self.losses.append(f"{name} {method} {path}: {error!r}")
            await asyncio.sleep(_PAUSE)
            answer = None
        told = "lost" if answer is None else f"{name} {method} {answer.status_code}"
        self.answers[told] = self.answers.get(told, 0) + 1
        if answer is not None and answer.status_code >= 500 and answer.status_code != 503:
            self.mistakes.append(f"{told}: {answer.text}\n{self._blog.log(name)[-6000:]}")
        return answer


async def wrong_with(blog: RunningBlog, life: Life, deadline: float) -> tuple[str, str]:
    """How the deletion of that article has ended, and what is wrong with it, or nothing.

    All services serve again; a deletion that no service has accepted yet is asked for once more.
    """
    try:
        if not life.sagas:
            path = f"/articles/{life.article}"
            answer = await _answer(blog, "articles", "DELETE", path, deadline)
            if answer.status_code == 202:
                life.sagas.append(answer.json()["saga_id"])
            elif answer.status_code != 410:
                return "none", f"DELETE answers {answer.status_code}: {answer.text}"
        ends = [await blog.until_ended(saga, deadline) for saga in life.sagas]
        status = "COMPLETED" if "COMPLETED" in ends or not ends else ends[-1]
        if status == "COMPENSATED":
            await _until_shown(blog, life.article, deadline)
        return status, await _wrong(blog, life, status, deadline)
    except AssertionError as error:
        return "none", str(error)


async def _answer(
    blog: RunningBlog, name: str, method: str, path: str, deadline: float, **options: Any
) -> httpx.Response:
    """The answer to what may be asked again, once there is one, and another one than 503: a
    connection that was lost while it rested is found out by the request that takes it next."""
    answers: list[httpx.Response] = []

    async def is_answered() -> bool:
        try:
            answers[:] = [await blog.ask(name, method, path, **options)]
        except httpx.TransportError:
            return False
        return answers[0].status_code != 503

    await until(is_answered, deadline, f"{name} answers {method} {path}")
    return answers[0]


async def _until_shown(blog: RunningBlog, article: str, deadline: float) -> None:
    async def shown() -> bool:
        answer = await _answer(blog, "articles", "GET", f"/articles/{article}", deadline)
        return answer.status_code == 200 and bool(answer.json()["status"] == "published")

    await until(shown, deadline, f"article {article} is published again")


async def _wrong(blog: RunningBlog, life: Life, status: str, deadline: float) -> str:
    of_it = {"article_id": life.article, "limit": 200}
    article = await _answer(blog, "articles", "GET", f"/articles/{life.article}", deadline)
    comments = await _answer(blog, "comments", "GET", "/comments", deadline, params=of_it)
    shown, there = article.status_code, {it["content"] for it in comments.json()["items"]}
    if status == "COMPLETED":
        if life.hold is Hold.YES:
            return "it was deleted in spite of its legal hold"
        if shown != 410 or there:
            return f"it was deleted: GET answers {shown}, and {len(there)} comments are there"
        return ""
    if status != "COMPENSATED":
        return f"its deletion is {status}"
    if life.hold is Hold.NO:
        return "its deletion was refused without a legal hold"
    if lost := life.accepted - there:
        return f"comments are lost: {sorted(lost)}"
    if made_up := there - life.accepted - life.unsure:
        return f"comments are there that were refused: {sorted(made_up)}"
    return "" if shown == 200 else f"it was kept, and GET answers {shown}"
